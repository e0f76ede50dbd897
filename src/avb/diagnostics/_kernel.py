"""Kernel two-sample tests: maximum mean discrepancy and energy distance."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from avb._check import expect_positive
from avb._types import Key, Scalar
from avb.diagnostics._draws import subset
from avb.diagnostics._permutation import PermutationTest, labelled_pool, permutation_test

ROWS_AT_ONCE = 256
HEURISTIC_DRAWS = 1000

Kernel = Callable[[Float[Array, "a b"], Scalar], Float[Array, "a b"]]


def _gaussian(squared: Float[Array, "a b"], bandwidth: Scalar) -> Float[Array, "a b"]:
    return jnp.exp(-0.5 * squared / bandwidth**2)


def _minus_distance(squared: Float[Array, "a b"], bandwidth: Scalar) -> Float[Array, "a b"]:
    return -jnp.sqrt(squared) / bandwidth


@functools.partial(jax.jit, static_argnames="kernel")
def _partial_sums(
    pool: Float[Array, "p d"],
    valid: Float[Array, " p"],
    labels: Bool[Array, "p l"],
    bandwidth: Scalar,
    kernel: Kernel,
) -> tuple[Float[Array, "chunks l"], Float[Array, "chunks rows"]]:
    """Σ_ij u_i C_ij u_j of each labelling u and Σ_j C_ij, over chunks of rows i.

    C_ij = k_ij − f_i − f_j off the diagonal and 0 on it. The unbiased statistics do not
    depend on f; with f the row means, entries are small and single precision is enough.
    """
    total = pool.shape[0]
    count = jnp.sum(valid)
    squares = jnp.sum(pool**2, axis=1)
    chunks = jnp.arange(total).reshape(-1, ROWS_AT_ONCE)

    def rows(index):
        products = jnp.matmul(pool[index], pool.T, precision="highest")
        squared = squares[index][:, None] + squares[None, :] - 2.0 * products
        off_diagonal = valid[index][:, None] * valid[None, :]
        off_diagonal = off_diagonal * (index[:, None] != jnp.arange(total)[None, :])
        return kernel(jnp.maximum(squared, 0.0), bandwidth), off_diagonal

    def row_sum(index):
        values, off_diagonal = rows(index)
        return jnp.sum(values * off_diagonal, axis=1)

    means = jax.lax.map(row_sum, chunks).reshape(total) / (count - 1.0)
    shift = means - 0.5 * jnp.sum(means) / count

    def chunk(index):
        values, off_diagonal = rows(index)
        centred = (values - shift[index][:, None] - shift[None, :]) * off_diagonal
        inner = jnp.matmul(centred, labels.astype(jnp.float32), precision="highest")
        return jnp.sum(inner * labels[index], axis=0), jnp.sum(centred, axis=1)

    return jax.lax.map(chunk, chunks)


def unbiased_statistics(
    pool: Float[np.ndarray, "p d"],
    labels: Bool[np.ndarray, "p l"],
    kernel: Kernel,
    bandwidth: float,
) -> Float[np.ndarray, " l"]:
    """The unbiased estimate of MMD² of a kernel (Gretton et al. 2012, eq. 3), per labelling.

    One pass over the kernel matrix serves all labellings, 256 of its rows at a time.

    Args:
        pool: Both sets, one above the other.
        labels: True where a member of the pool counts as a draw.
        kernel: From squared distances and a bandwidth to values.
        bandwidth: The kernel's length.

    Returns:
        One value a labelling.
    """
    total = len(pool)
    padding = -total % ROWS_AT_ONCE
    # Distances are differences of squares, which the origin should not dwarf.
    pool = pool - np.median(pool, axis=0)
    padded = np.pad(pool, ((0, padding), (0, 0))).astype(np.float32)
    valid = np.pad(np.ones(total, np.float32), (0, padding))
    padded_labels = np.pad(labels, ((0, padding), (0, 0)))
    inside, row_sums = _partial_sums(
        padded, valid, padded_labels, jnp.asarray(bandwidth, jnp.float32), kernel
    )
    within = np.sum(np.asarray(inside), axis=0, dtype=np.float64)
    row_sums = np.asarray(row_sums, np.float64).ravel()[:total]
    between = row_sums @ labels - within
    rest = row_sums.sum() - 2 * between - within
    n = int(labels[:, 0].sum())
    m = total - n
    return within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * between / (n * m)


def _median_distance(points: np.ndarray) -> float:
    """The median distance between points that do not coincide."""
    distances = pdist(points)
    apart = distances[distances > 0]
    return float(np.median(apart)) if apart.size else 1.0


def mmd_test(
    draws: ArrayLike,
    reference: ArrayLike,
    *,
    key: Key,
    bandwidth: float | None = None,
    permutations: int = 999,
    max_draws: int = 2000,
) -> PermutationTest:
    """Unbiased MMD² with a Gaussian kernel, and its permutation p-value.

    The kernel is exp(−‖a − b‖² / 2h²) in coordinates scaled by the mean and standard
    deviation of both sets together (median and interquartile scale where the tails
    decide the moments), so that the scale is the same under every permutation. The
    estimate is negative about half the time under equal distributions.

    Args:
        draws: Shape ``(n, d)``, taken as independent.
        reference: Shape ``(m, d)``, taken as independent: thin the chains of a sampler.
        key: PRNG key.
        bandwidth: h, in scaled coordinates; by default the median distance within the
            pool, of at most 1,000 of its members.
        permutations: Random relabellings, at least 19.
        max_draws: Draws of each set that enter, chosen at random; time grows with its
            square, memory linearly.

    Returns:
        The test; its value has no units.

    Raises:
        ConfigError: Settings out of range.
        DataError: Arrays that do not fit each other, or are not finite.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), JMLR 13, 723-773.
    """
    if bandwidth is not None:
        expect_positive("bandwidth", bandwidth)
    pool, labels, rng = labelled_pool(draws, reference, key, permutations, max_draws)
    if bandwidth is None:
        bandwidth = _median_distance(subset(rng, pool, HEURISTIC_DRAWS))
    n = int(labels[:, 0].sum())
    return permutation_test(
        "MMD²",
        unbiased_statistics(pool, labels, _gaussian, bandwidth),
        draws=n,
        reference=len(pool) - n,
        detail=f"Gaussian kernel, bandwidth {bandwidth:.4g} pooled standard deviations",
    )


def energy_distance(
    draws: ArrayLike,
    reference: ArrayLike,
    *,
    key: Key,
    permutations: int = 999,
    max_draws: int = 2000,
) -> PermutationTest:
    """The energy distance 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, and its permutation p-value.

    It is zero only for equal distributions. The estimate is unbiased, so negative about
    half the time under equal distributions. Coordinates are scaled as by :func:`mmd_test`.

    Args:
        draws: Shape ``(n, d)``, taken as independent.
        reference: Shape ``(m, d)``, taken as independent: thin the chains of a sampler.
        key: PRNG key.
        permutations: Random relabellings, at least 19.
        max_draws: Draws of each set that enter, chosen at random; time grows with its
            square, memory linearly.

    Returns:
        The test; its value is in pooled standard deviations.

    Raises:
        ConfigError: Settings out of range.
        DataError: Arrays that do not fit each other, or are not finite.

    References:
        Székely & Rizzo (2013), J. Statistical Planning and Inference 143, 1249-1272. It is
        MMD² with the kernel −‖a − b‖: Sejdinovic, Sriperumbudur, Gretton & Fukumizu (2013),
        https://arxiv.org/abs/1207.6076.
    """
    pool, labels, _ = labelled_pool(draws, reference, key, permutations, max_draws)
    n = int(labels[:, 0].sum())
    return permutation_test(
        "energy distance",
        unbiased_statistics(pool, labels, _minus_distance, 1.0),
        draws=n,
        reference=len(pool) - n,
        detail="in pooled standard deviations",
    )
