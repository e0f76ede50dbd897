"""The data of a model that sees minibatches: rows on the host, in memory or in a mapped file."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.densities._points import even_points
from avb.inference._expansion import Corrected
from avb.inference._numpyro import (
    ARRAYS,
    CONCRETE_NEEDED,
    Fixed,
    Layout,
    Model,
    look,
    numpyro_functions,
)
from avb.inference._row_model import RowModel
from avb.inference._row_proposal import RowEncoder, RowIntegral, RowIntegrator, RowProposal
from avb.inference._rows import WAY_OUT, Minibatch, Rows, Subsample, WholeError, release
from avb.inference._target import Functions, Sites, Target

PILOT_ROWS = 4096
# The same where each row's term is an integral.
PILOT_ROWS_INTEGRATED = 1024
CHUNK_BYTES = 16e6


class Batch(eqx.Module):
    """The rows of one minibatch, or of several, stacked.

    Attributes:
        index: Which rows, shape ``(b,)``.
        rows: Those of each memory-mapped argument, shape ``(b, ...)``.
    """

    index: Int[Array, "*m b"] | np.ndarray
    rows: tuple[Array | np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model of which each call sees ``plate.batch`` rows of ``plate.size``.

    Attributes:
        plate: The subsampled plate.
        dim: Number of latent dimensions d.
        arrays: Arguments of the model that are in memory, and whole on the device; with those of
            the integral over each row's latents if it has some.
        mapped: Arguments that are memory-mapped.
        estimate: Functions whose arguments are the arrays and one :class:`Batch`; their log
            density is an unbiased estimate of the model's.
        surrogate: Functions whose arguments are :class:`~avb.inference._expansion.Corrected`.
        rows: Integrates the latents of each row out; ``None`` if it has none.
    """

    plate: Subsample
    dim: int
    arrays: list[Array] | tuple[list[Array], RowIntegral]
    mapped: tuple[np.ndarray, ...]
    estimate: Functions
    surrogate: Functions
    rows: RowIntegrator | None = None

    def batches(self, index: Int[np.ndarray, "m b"]) -> Batch:
        """The rows of several minibatches, read into memory."""
        rows = tuple(np.asarray(array[index]) for array in self.mapped)
        for array in self.mapped:
            release(array)
        return Batch(index.astype(np.int32), rows)

    @property
    def at_once(self) -> int:
        """Minibatches that are read at once."""
        row = sum(a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in self.mapped) + 4
        return max(1, min(int(CHUNK_BYTES / (row * self.plate.batch)), self._most))

    @property
    def _most(self) -> int:
        return -(-self.plate.size // self.plate.batch) + 1

    @property
    def draws(self) -> int:
        """Points at which each row's term is evaluated: of the integral, if there is one."""
        return self.arrays[1].points.shape[0] if isinstance(self.arrays, tuple) else 1

    @property
    def divisor_at_once(self) -> int:
        """As many, or fewer: a divisor of 100, so that one program serves all chunks."""
        return max(n for n in (1, 2, 5, 10, 25, 50, 100) if n <= self.at_once)

    def random(self, generator: np.random.Generator, count: int) -> Batch:
        """Minibatches of rows drawn independently, with replacement."""
        shape = (count, self.plate.batch)
        # In order, for the sake of the disk.
        return self.batches(np.sort(generator.integers(0, self.plate.size, shape), axis=1))

    def pilot(self, generator: np.random.Generator) -> Batch:
        """Minibatches of some thousands of rows, none twice."""
        batch = self.plate.batch
        most = PILOT_ROWS if self.rows is None else PILOT_ROWS_INTEGRATED
        count = max(1, min(most, self.plate.size) // batch)
        rows = generator.choice(self.plate.size, count * batch, replace=False, shuffle=False)
        return self.batches(np.sort(rows).reshape(count, batch))

    def partition(self) -> Iterator[tuple[Batch, Float[np.ndarray, " m"]]]:
        """All rows, as minibatches and weights whose weighted sum is the log density itself.

        The last minibatch is filled up with the last row, and one of this row alone takes the
        excess away: each term of the prior is then counted once, and each row once.
        """
        size, batch = self.plate.size, self.plate.batch
        full, rest = divmod(size, batch)
        total = full + (2 if rest else 0)
        for start in range(0, total, self.at_once):
            which = np.arange(start, start + self.at_once)
            index = which[:, None] * batch + np.arange(batch)
            index = np.where(which[:, None] > full, size - 1, np.minimum(index, size - 1))
            weights = np.where(which <= full - (0 if rest else 1), batch / size, 0.0)
            if rest:
                weights = np.where(which == full + 1, -(batch - rest) / size, weights)
            yield self.batches(index), weights

    def some(self, most: int, key: Key) -> Iterator[tuple[Batch, Float[np.ndarray, " m"]]]:
        """All rows as in :meth:`partition`; of more than ``most``, that many at random."""
        if self.plate.size <= most:
            yield from self.partition()
            return
        count = -(-most // self.plate.batch)
        generator = host_generator(key)
        for start in range(0, count, self.at_once):
            alive = np.arange(start, start + self.at_once) < count
            yield self.random(generator, self.at_once), np.where(alive, 1.0 / count, 0.0)

    def target(self) -> Target:
        """The sites of the model; its log density is one of all rows, and is not had."""

        def log_density(arguments: PyTree, z: Latent) -> Scalar:
            raise ConfigError(
                f"log density: expected a model that sees all its {self.plate.size} rows, got one "
                f"that sees {self.plate.batch}; use the posterior that run gives"
            )

        first = self.batches(np.arange(self.plate.batch)[None])
        arguments = (self.arrays, jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), first))
        functions = Functions(log_density, self.estimate.constrain, self.estimate.log_terms)
        return Target(arguments, functions, self.dim)


def _surrogate_functions(estimate: Functions) -> Functions:
    def first(arguments: Corrected) -> PyTree:
        return arguments.arrays, jax.tree.map(lambda leaf: leaf[0], arguments.batches)

    def constrain(arguments: Corrected, z: Latent) -> Sites:
        return estimate.constrain(first(arguments), z)

    def log_terms(arguments: Corrected, z: Latent) -> Sites:
        return estimate.log_terms(first(arguments), z)

    def log_density(arguments: Corrected, z: Latent) -> Scalar:
        return arguments.log_density(estimate.log_density, z)

    return Functions(log_density, constrain, log_terms)


NOTHING_TO_ENCODE = (
    "encoder: expected a model with latent sites inside a subsampled plate, got one without; "
    "leave encoder out"
)
LOOKS = (
    "model: expected one that does not look at the values of its arrays, which change from "
    "minibatch to minibatch; give sizes as numbers"
)


def _look(model: Model, structure: Any, leaves: list) -> tuple[dict[str, Subsample], Layout | None]:
    """The subsampled plates of a model, and its layout if it has one."""
    rows = [Rows(leaf) if isinstance(leaf, np.memmap) else leaf for leaf in leaves]
    args, kwargs = jax.tree.unflatten(structure, rows)
    minibatch = Minibatch(model, [row for row in rows if isinstance(row, Rows)])
    try:
        return minibatch.seen, look(minibatch, args, kwargs)
    except (WholeError, *CONCRETE_NEEDED):
        # Without such a plate, arguments are read whole: as all others.
        if minibatch.seen:
            raise
        return {}, None


def _plate(model: Model, structure: Any, leaves: list) -> tuple[Subsample, Layout] | None:
    """The subsampled plate and the layout of a model; ``None`` if there is no such plate."""
    try:
        seen, layout = _look(model, structure, leaves)
    except CONCRETE_NEEDED:
        # The plate's indices are traced, which NumPy's arrays cannot be indexed with.
        arrays = [
            jnp.asarray(leaf)
            if isinstance(leaf, np.ndarray) and not isinstance(leaf, np.memmap)
            else leaf
            for leaf in leaves
        ]
        try:
            seen, layout = _look(model, structure, arrays)
        except CONCRETE_NEEDED as error:
            raise ConfigError(LOOKS) from error
    if len(seen) > 1:
        raise ConfigError(f"subsampled plates: expected one, got {', '.join(map(repr, seen))}")
    if not seen or layout is None:
        return None
    return next(iter(seen.values())), layout


def _joiner(
    structure: Any, kinds: list, fixed: tuple[Fixed | None, ...], like: list[np.ndarray]
) -> Callable[[PyTree], tuple]:
    """Puts a minibatch, the arrays in memory and all else back together as arguments.

    Args:
        structure: Of positional and keyword arguments.
        kinds: Of each argument: ``"mapped"``, ``True`` for one in memory, ``False`` for others.
        fixed: The others.
        like: Shapes and types of the mapped ones, without the data, which functions outlive.
    """

    def join(arguments: tuple[list[Array], Batch]) -> tuple:
        arrays, batch = arguments
        in_memory, of_batch, all_rows = iter(arrays), iter(batch.rows), iter(like)
        rows, joined = [], []
        for kind, leaf in zip(kinds, fixed, strict=True):
            if kind == "mapped":
                rows.append(Rows(next(all_rows), jnp.asarray(next(of_batch))))
                joined.append(rows[-1])
            else:
                joined.append(next(in_memory) if leaf is None else leaf.value)
        args, kwargs = jax.tree.unflatten(structure, joined)
        return (batch.index, rows, *args), kwargs

    return join


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """How the latents of each row are integrated out.

    Attributes:
        encoder: Features of one row; ``None`` for :class:`RowEncoder`.
        draws: Points for each row.
    """

    encoder: Callable | None = None
    draws: int = 32


def find_source(
    model: Model, args: tuple, kwargs: dict, cache: dict, settings: RowSettings
) -> Source | None:
    """The data of a model with a subsampled plate; ``None`` if it has none.

    Args:
        model: Any callable with NumPyro primitives.
        args: Its positional arguments; ``np.memmap`` arrays are read by rows.
        kwargs: Its keyword arguments.
        cache: Functions made before, by the shapes of the arguments; new ones are added.
        settings: For the latents of each row, if it has some.

    Raises:
        ConfigError: A site that cannot be inferred from minibatches, or a memory-mapped array
            that is no table of the plate's rows.
    """
    leaves, structure = jax.tree.flatten((args, kwargs))
    mapped = tuple(leaf for leaf in leaves if isinstance(leaf, np.memmap))
    kinds = ["mapped" if isinstance(x, np.memmap) else isinstance(x, ARRAYS) for x in leaves]
    arrays = [jnp.asarray(leaf) for leaf, kind in zip(leaves, kinds, strict=True) if kind is True]
    fixed = tuple(None if kind else Fixed(x) for x, kind in zip(leaves, kinds, strict=True))
    shapes = tuple((leaf.shape, leaf.dtype.name) for leaf in [*mapped, *arrays])
    signature = ("rows", structure, fixed, tuple(kinds), shapes)
    if signature in cache:
        return _with_data(cache[signature], arrays, mapped, settings)
    found = _plate(model, structure, leaves)
    if found is None:
        return None
    plate, layout = found
    for array in mapped:
        if array.shape[:1] != (plate.size,):
            raise ConfigError(
                f"memory-mapped argument of shape {'×'.join(map(str, array.shape))}: expected the "
                f"{plate.size} rows of plate '{plate.name}'; {WAY_OUT}"
            )

    def of_rows(index: Array, rows: list[Rows], *args: Any, **kwargs: Any) -> Any:
        return Minibatch(model, rows, index)(*args, **kwargs)

    like = [np.broadcast_to(np.zeros((), a.dtype), a.shape) for a in mapped]
    join = _joiner(structure, kinds, fixed, like)
    estimate = numpyro_functions(of_rows, layout, join)
    source = Source(plate, layout.dim, arrays, mapped, estimate, _surrogate_functions(estimate))
    _check_traced(source)
    if layout.local:
        source = _integrated(source, RowModel(of_rows, layout, plate, join), settings)
    elif settings.encoder is not None:
        raise ConfigError(NOTHING_TO_ENCODE)
    # Without the data, which the functions outlive.
    cache[signature] = dataclasses.replace(source, arrays=[], mapped=())
    return _with_data(cache[signature], arrays, mapped, settings)


def _integrated(source: Source, model: RowModel, settings: RowSettings) -> Source:
    """The source with the latents of each row integrated out; without its data."""
    model.check(source.target().arguments)
    rows = RowIntegrator(model, _proposal(source, model, settings))
    plain = source.estimate

    def without(function: Callable[[PyTree, Latent], Sites]) -> Callable:
        return lambda arguments, z: function((arguments[0][0], arguments[1]), z)

    estimate = Functions(rows.log_density, without(plain.constrain), without(plain.log_terms))
    surrogate = _surrogate_functions(estimate)
    return dataclasses.replace(source, estimate=estimate, surrogate=surrogate, rows=rows)


def _with_data(
    made: Source, arrays: list[Array], mapped: tuple[np.ndarray, ...], settings: RowSettings
) -> Source:
    source = dataclasses.replace(made, arrays=arrays, mapped=mapped)
    if source.rows is None:
        return source
    proposal = _proposal(source, source.rows.model, settings)
    points = jnp.asarray(even_points(settings.draws, source.rows.model.dim))
    seed = jax.random.key_data(jax.random.key(0))
    integral = RowIntegral(eqx.filter(proposal, eqx.is_array), points, seed)
    return dataclasses.replace(source, arrays=(arrays, integral))


def _proposal(source: Source, model: RowModel, settings: RowSettings) -> RowProposal:
    """One that knows of the data no more than how large they are."""
    pilot = source.pilot(np.random.default_rng(0))
    flat = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])), pilot)
    sample = tuple(np.asarray(part) for part in model.data((source.arrays, flat)))
    encoder = settings.encoder or RowEncoder(sample, key=jax.random.key(0))
    entry = tuple(jax.ShapeDtypeStruct(part.shape[1:], part.dtype) for part in sample)
    return RowProposal(encoder, row=entry, dim=model.dim, shared=source.dim, key=jax.random.key(1))


def _check_traced(source: Source) -> None:
    target = source.target()
    point = jax.ShapeDtypeStruct((source.dim,), jnp.result_type(float))
    try:
        jax.eval_shape(source.estimate.log_density, target.arguments, point)
    except CONCRETE_NEEDED as error:
        raise ConfigError(LOOKS) from error


def host_generator(key: Key) -> np.random.Generator:
    """A generator on the host that the key decides."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))
