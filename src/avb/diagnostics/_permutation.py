"""Permutation tests: one statistic under the true labels and under random ones."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from avb._types import Key
from avb.diagnostics._draws import (
    FEWEST_DRAWS,
    check_at_least,
    check_pair,
    generator,
    pooled_and_scaled,
    subset,
)

# The fewest with which a p-value can reach 5%.
FEWEST_PERMUTATIONS = 19


@dataclasses.dataclass(frozen=True)
class PermutationTest:
    """A two-sample statistic and its permutation p-value.

    Attributes:
        statistic: Its name.
        value: Its value, in the units that ``detail`` names.
        p_value: (1 + permutations with at least this value) / (1 + permutations). Under
            equal distributions and independent draws, P(p ≤ α) ≤ α for every α (Phipson &
            Smyth 2010, https://arxiv.org/abs/1603.05766).
        null_quantile: The 95% quantile of the statistic over the permutations.
        permutations: Their number.
        draws: Draws that entered.
        reference: Reference draws that entered.
        detail: With which settings it was computed, in a few words.
    """

    statistic: str
    value: float
    p_value: float
    null_quantile: float
    permutations: int
    draws: int
    reference: int
    detail: str

    def as_dict(self) -> dict:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def relabellings(
    rng: np.random.Generator, draws: int, reference: int, permutations: int
) -> Bool[np.ndarray, "pool labellings"]:
    """Which of the pool count as draws: the truth in the first column, then at random."""
    true = np.arange(draws + reference) < draws
    rows = np.broadcast_to(true, (permutations + 1, draws + reference)).copy()
    rng.permuted(rows[1:], axis=1, out=rows[1:])
    return rows.T


def labelled_pool(
    draws: ArrayLike, reference: ArrayLike, key: Key, permutations: int, max_draws: int
) -> tuple[Float[np.ndarray, "pool d"], Bool[np.ndarray, "pool labellings"], np.random.Generator]:
    """Scaled draws above reference draws, labellings of them, and the generator that made both.

    Raises:
        ConfigError: Settings out of range.
        DataError: Arrays that do not fit each other, or are not finite.
    """
    check_at_least("permutations", FEWEST_PERMUTATIONS, permutations)
    check_at_least("max_draws", FEWEST_DRAWS, max_draws)
    draws, reference = check_pair(draws, reference)
    rng = generator(key)
    draws, reference = subset(rng, draws, max_draws), subset(rng, reference, max_draws)
    labels = relabellings(rng, len(draws), len(reference), permutations)
    return pooled_and_scaled(draws, reference), labels, rng


def permutation_test(
    statistic: str,
    values: Float[np.ndarray, " labellings"],
    *,
    draws: int,
    reference: int,
    detail: str,
) -> PermutationTest:
    """The test from the statistic's values, the true labelling's first."""
    true, permuted = values[0], values[1:]
    return PermutationTest(
        statistic,
        value=float(true),
        p_value=float((1 + np.sum(permuted >= true)) / values.size),
        null_quantile=float(np.quantile(permuted, 0.95)),
        permutations=permuted.size,
        draws=draws,
        reference=reference,
        detail=detail,
    )
