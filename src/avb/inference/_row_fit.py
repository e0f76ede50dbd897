"""What a posterior knows of the latents of each row: how good their integrals are, and draws."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.inference._npz import Arrays, from_arrays, to_arrays
from avb.inference._row_proposal import RowIntegral, RowIntegrator
from avb.inference._source import Batch, Source
from avb.inference._target import Sites

# Points of the finer integral for each one of the coarse; also of those that a draw is chosen from.
FINER = 8
CHECKED_ROWS = 1 << 13
# Draws of rows whose points are held at once.
POINTS_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True)
class RowIntegrals:
    """How well a finite sum stands for the integrals over the latents of each row.

    Attributes:
        draws: Points for each row.
        nats: By how much eight times as many would raise the log evidence.
        shift: By how much they would move the mean of a shared latent, at most, in its posterior
            sds, to first order.
        effective: Mean share of effective points, of a row.
    """

    draws: int
    nats: float
    shift: float
    effective: float

    def __str__(self) -> str:
        return (
            f"latents of each row integrated by {self.draws} points, {self.effective:.0%} "
            f"effective; {FINER} times as many would add {self.nats:.2f} nats and move a mean by "
            f"at most {self.shift:.2f} sds"
        )


@dataclasses.dataclass(frozen=True)
class RowFit:
    """The fitted proposal for the latents of each row.

    Attributes:
        arrays: Of its :class:`~avb.inference._row_proposal.RowIntegral`.
        integrals: How good it is.
        source: The model with its data; ``None`` where the posterior was loaded without.
    """

    arrays: Arrays
    integrals: RowIntegrals
    source: Source | None

    def with_source(self, source: Source | None) -> "RowFit":
        """The same with the data, whose own integral becomes the fitted one."""
        if source is None or not isinstance(source.arrays, tuple):
            return dataclasses.replace(self, source=None)
        arrays, integral = source.arrays
        fitted = from_arrays(self.arrays, integral)
        return dataclasses.replace(
            self, source=dataclasses.replace(source, arrays=(arrays, fitted))
        )


@eqx.filter_jit
def _difference(
    rows: RowIntegrator,
    arrays: list[Array],
    both: tuple[RowIntegral, RowIntegral],
    batches: Batch,
    weights: Array | np.ndarray,
    z: Latent,
) -> tuple[Scalar, Latent, Scalar]:
    """Log density by the second integral less that by the first; its slope; effective points."""

    def of_batch(batch: Batch, z: Latent) -> tuple[Scalar, Scalar]:
        coarse, fine = (rows.weigh(integral, (arrays, batch), z) for integral in both)
        gain = rows.model.weight * jnp.sum(fine.log_integrals() - coarse.log_integrals())
        share = jax.nn.softmax(coarse.log_weights, axis=0)
        return gain, jnp.mean(1.0 / jnp.sum(share**2, axis=0)) / share.shape[0]

    def add(total, given: tuple[Array | np.ndarray, Batch]):
        weight, batch = given
        (gain, effective), slope = jax.value_and_grad(of_batch, argnums=1, has_aux=True)(batch, z)
        return jax.tree.map(lambda t, p: t + weight * p, total, (gain, slope, effective)), None

    zero = jnp.zeros(())
    return lax.scan(add, (zero, jnp.zeros_like(z), zero), (weights, batches))[0]


def check_integrals(source: Source, z: Float[Array, "s d"], key: Key) -> RowIntegrals:
    """Compare with integrals of more points, at the mean of the posterior.

    Args:
        source: With its fitted proposal.
        z: Draws of the posterior.
        key: PRNG key.
    """
    assert isinstance(source.arrays, tuple)
    assert source.rows is not None
    arrays, integral = source.arrays
    key_points, key_rows = jax.random.split(key)
    both = integral, integral.refined(FINER, jax.random.key_data(key_points))
    total = None
    for batches, weights in source.some(CHECKED_ROWS, key_rows):
        part = _difference(source.rows, arrays, both, batches, weights, jnp.mean(z, axis=0))
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    assert total is not None
    nats, slope, effective = (np.asarray(leaf, np.float64) for leaf in total)
    covariance = np.cov(np.asarray(z, np.float64), rowvar=False).reshape(len(slope), -1)
    shift = np.abs(covariance @ slope) / np.sqrt(np.diagonal(covariance))
    return RowIntegrals(source.draws, float(nats), float(np.max(shift)), float(effective))


def row_fit(source: Source, z: Float[Array, "s d"], key: Key) -> RowFit | None:
    """That of a source; ``None`` where no row has latents of its own."""
    if not isinstance(source.arrays, tuple):
        return None
    return RowFit(to_arrays(source.arrays[1]), check_integrals(source, z, key), source)


def sample_rows(
    fit: RowFit, z: Float[Array, "s d"], rows: Int[np.ndarray, " r"], key: Key
) -> Sites:
    """Latents of some rows, one draw of each for every draw of the shared ones.

    Of eight times as many points as the integral has, one is chosen by its importance weight.

    Args:
        fit: With its data.
        z: Draws of the shared latents.
        rows: Which rows.
        key: PRNG key.

    Raises:
        ConfigError: There is no such row, or the posterior has no data.
    """
    source = fit.source
    if source is None:
        raise ConfigError(
            "sample_rows: expected the model and its data, got none; pass them to "
            "avb.inference.load"
        )
    assert isinstance(source.arrays, tuple)
    assert source.rows is not None
    size, batch = source.plate.size, source.plate.batch
    if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
        raise ConfigError(
            f"rows: expected a list of indices, got {rows.dtype} of shape {rows.shape}"
        )
    if rows.min() < 0 or rows.max() >= size:
        raise ConfigError(
            f"rows: expected indices from 0 to {size - 1}, got {rows.min()} to {rows.max()}"
        )
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch)])
    arrays, integral = source.arrays
    finer = integral.refined(FINER, integral.seed)
    keys = jax.random.split(key, (len(padded) // batch, len(z)))
    parts = []
    for own, index in zip(keys, padded.reshape(-1, batch), strict=True):
        rows_of = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), source.batches(index[None]))
        at_once = max(1, POINTS_AT_ONCE // (batch * FINER * source.draws))
        parts.append(_draw(source.rows, finer, arrays, rows_of, z, own, at_once))
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *parts)
    return {name: value[:, : len(rows)] for name, value in joined.items()}


@eqx.filter_jit
def _draw(
    rows: RowIntegrator,
    integral: RowIntegral,
    arrays: list[Array],
    batch: Batch,
    z: Float[Array, "s d"],
    keys: Array,
    at_once: int,
) -> Sites:
    def one(given: tuple[Latent, Key]) -> Sites:
        z, key = given
        key_points, key_choice = jax.random.split(key)
        own = dataclasses.replace(integral, seed=jax.random.key_data(key_points))
        weighted = rows.weigh(own, (arrays, batch), z)
        chosen = jax.random.categorical(key_choice, weighted.log_weights, axis=0)
        u = weighted.u[chosen, jnp.arange(len(chosen))]
        return rows.model.sites((arrays, batch), z, u)

    return lax.map(one, (z, keys), batch_size=at_once)
