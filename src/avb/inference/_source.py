"""The data of a model that sees minibatches: rows on the host, in memory or in a mapped file."""

import dataclasses
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.inference._row_proposal import RowIntegral, RowIntegrator
from avb.inference._rows import Subsample, release
from avb.inference._target import Functions, Target

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


def host_generator(key: Key) -> np.random.Generator:
    """A generator on the host that the key decides."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))
