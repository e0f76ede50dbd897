"""A model's subsampled plate: which arguments are its rows, and the model's functions of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from avb._errors import ConfigError
from avb._types import Latent, Scalar
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
from avb.inference._rows import WAY_OUT, Minibatch, Rows, Subsample, WholeError
from avb.inference._source import Batch, Source
from avb.inference._target import Functions, Sites


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


FEWEST_DRAWS, MOST_DRAWS = 32, 256
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
        draws: Points for each row; ``None`` for as many as it takes, in powers of two.
    """

    encoder: Callable | None = None
    draws: int | None = None


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
    most = settings.draws or MOST_DRAWS
    rows = RowIntegrator(model, _proposal(source, model, settings), most)
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
    points = jnp.asarray(even_points(settings.draws or FEWEST_DRAWS, source.rows.model.dim))
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
