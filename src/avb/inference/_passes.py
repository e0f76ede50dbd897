"""Passes over the rows of a model on the host: expansions and log densities, in float64.

A log density of n rows is of the order of n, whose differences float32 does not hold.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from avb._types import Key
from avb.inference._expansion import Centres, Corrected, Expansion, expand
from avb.inference._source import Batch, Source
from avb.inference._target import Functions

# Rows that final numbers take in; of more, that many at random.
MEASURED_ROWS = 1 << 17
# The same where each row's term is an integral.
MEASURED_ROWS_INTEGRATED = 1 << 13
# Rows times draws whose terms are held at once.
TERMS_AT_ONCE = 1 << 21


@eqx.filter_jit
def _expand_some(
    estimate: Functions,
    arrays: PyTree,
    batches: Batch,
    weights: Array | np.ndarray,
    centres: Centres,
) -> Expansion:
    def add(total: Expansion, given: tuple[Array | np.ndarray, Batch]):
        weight, batch = given
        part = expand(lambda z: estimate.log_density((arrays, batch), z), centres)
        return jax.tree.map(lambda t, p: t + weight * p, total, part), None

    shapes = centres.loc.shape
    zero = Expansion.zero(*shapes)
    return lax.scan(add, zero, (weights, batches))[0]


def expand_all(source: Source, centres: Centres) -> Expansion:
    """The expansion of the log density of all rows: one pass over them."""
    with jax.enable_x64(True):  # noqa: FBT003
        wide = _wide(centres)
        parts = (
            _expand_some(source.estimate, source.arrays, batches, weights, wide)
            for batches, weights in source.partition()
        )
        total = jax.tree.map(np.asarray, next(parts))
        for part in parts:
            total = jax.tree.map(lambda a, b: a + np.asarray(b), total, part)
    return total


def _wide(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)


def narrow(expansion: Expansion) -> Expansion:
    """The expansion in the default precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), expansion)


class LogDensities(NamedTuple):
    """Log p of several draws.

    Attributes:
        values: Less the constant of the expansion given, shape ``(s,)``.
        errors: Standard error of each, for the rows left out; 0 if none were.
        rows: Rows taken in.
    """

    values: np.ndarray
    errors: np.ndarray
    rows: int


@eqx.filter_jit
def _remainders(
    estimate: Functions,
    arrays: PyTree,
    batches: Batch,
    weights: Array | np.ndarray,
    centres: Centres,
    z: Float[Array, "s d"],
    at_once: int,
) -> tuple[Array, Array]:
    """Weighted sums of what minibatches' log densities exceed their expansions by, and squares."""

    def add(total, given: tuple[Array | np.ndarray, Batch]):
        weight, batch = given
        one = jax.tree.map(lambda leaf: leaf[None], batch)
        raw = Corrected.raw(arrays, one, z.shape[1])
        own = raw.at(estimate.log_density, centres, Expansion.zero(*centres.loc.shape))
        rest = lax.map(lambda z: own.log_density(estimate.log_density, z), z, batch_size=at_once)
        return (total[0] + weight * rest, total[1] + weight * rest**2), None

    zero = jnp.zeros(z.shape[0])
    return lax.scan(add, (zero, zero), (weights, batches))[0]


def log_densities(
    source: Source, centres: Centres, whole: Expansion, z: Float[Array, "s d"], key: Key
) -> LogDensities:
    """Log p of draws, from all rows or, if they are very many, from a random part of them.

    What is left out is the third and higher orders of the rows that are not drawn, of which
    the standard error tells the size.

    Args:
        source: The data.
        centres: Centres of the expansion.
        whole: That of all rows, in float64.
        z: The draws.
        key: PRNG key of the choice of rows.
    """
    batch = source.plate.batch
    total, squares, rows = 0.0, 0.0, source.plate.size
    most = MEASURED_ROWS if source.rows is None else MEASURED_ROWS_INTEGRATED
    exact = source.plate.size <= most
    with jax.enable_x64(True):  # noqa: FBT003
        wide, points, expansion = _wide(centres), _wide(z), _wide(whole)
        at_once = max(1, TERMS_AT_ONCE // (batch * source.draws))
        for batches, weights in source.some(most, key):
            part = _remainders(
                source.estimate, source.arrays, batches, weights, wide, points, at_once
            )
            total, squares = total + np.asarray(part[0]), squares + np.asarray(part[1])
        quadratic = np.asarray(_quadratic(wide, expansion, points))
    if exact:
        return LogDensities(quadratic + total, np.zeros_like(quadratic), rows)
    count = -(-most // batch)
    variance = np.maximum(squares - total**2, 0.0) / max(count - 1, 1)
    return LogDensities(quadratic + total, np.sqrt(variance), count * batch)


@eqx.filter_jit
def _quadratic(centres: Centres, whole: Expansion, z: Float[Array, "s d"]) -> Array:
    def one(z):
        centre = centres.nearest(z)
        return whole.value[centre] + whole.above_value(centre, z - centres.loc[centre])

    return jax.vmap(one)(z)
