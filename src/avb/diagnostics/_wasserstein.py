"""Sliced Wasserstein distance."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from avb._types import Key
from avb.diagnostics._draws import check_at_least
from avb.diagnostics._permutation import PermutationTest, labelled_pool, permutation_test


def _statistics(
    projections: Float[np.ndarray, "p directions"], labels: Bool[np.ndarray, "p l"]
) -> Float[np.ndarray, " l"]:
    """Mean over directions of ∫ |F − G|, the distance of order 1 in one dimension."""
    n = int(labels[:, 0].sum())
    m = len(labels) - n
    weights = np.where(labels, np.float32(1 / n), np.float32(-1 / m))
    total = np.zeros(labels.shape[1])
    for projected in projections.T:
        order = np.argsort(projected)
        gaps = np.diff(projected[order]).astype(np.float32)
        difference = weights[order[:-1]]
        np.cumsum(difference, axis=0, out=difference)
        total += gaps @ np.abs(difference, out=difference)
    return total / projections.shape[1]


def sliced_wasserstein(
    draws: ArrayLike,
    reference: ArrayLike,
    *,
    key: Key,
    directions: int = 64,
    permutations: int = 199,
    max_draws: int = 2000,
) -> PermutationTest:
    """Wasserstein distance of order 1 along random directions, averaged, with a p-value.

    Coordinates are scaled as by :func:`mmd_test`. The value is positive under equal
    distributions too; compare it with the test's ``null_quantile``.

    Args:
        draws: Shape ``(n, d)``, taken as independent.
        reference: Shape ``(m, d)``, taken as independent: thin the chains of a sampler.
        key: PRNG key.
        directions: Directions, uniform on the sphere; in one dimension there is one.
        permutations: Random relabellings, at least 19.
        max_draws: Draws of each set that enter, chosen at random.

    Returns:
        The test; its value is in pooled standard deviations.

    Raises:
        ConfigError: Settings out of range.
        DataError: Arrays that do not fit each other, or are not finite.

    References:
        Bonneel, Rabin, Peyré & Pfister (2015), J. Mathematical Imaging and Vision 51, 22-45.
    """
    check_at_least("directions", 1, directions)
    pool, labels, rng = labelled_pool(draws, reference, key, permutations, max_draws)
    dim = pool.shape[1]
    unit = rng.normal(size=(dim, directions if dim > 1 else 1))
    unit /= np.linalg.norm(unit, axis=0)
    n = int(labels[:, 0].sum())
    return permutation_test(
        "sliced Wasserstein",
        _statistics(pool @ unit, labels),
        draws=n,
        reference=len(pool) - n,
        detail=f"order 1, {unit.shape[1]} directions, in pooled standard deviations",
    )
