"""Are ranks uniform? Chi-square on bins, and a simultaneous band for their distribution."""

import dataclasses
import functools

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from avb._errors import DataError

POINTS = 100
BINS = 20
EXPECTED_IN_BIN = 5
NULL_SIMULATIONS = 10_000
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Uniformity:
    """Tests that ranks of several quantities are uniform on 0 … L.

    Attributes:
        ecdf_p_values: Of each quantity, shape ``(q,)``: how often the distribution function
            of as many uniform ranks leaves pointwise binomial bands as extreme as the one
            that the ranks just touch.
        chi_square_p_values: Of each quantity, from ``bins`` bins, shape ``(q,)``.
        adjusted_p_values: The first, by Holm's method for q quantities, shape ``(q,)``: the
            chance of any below α is at most α, however the quantities depend on each other.
        points: Values r at which P(rank ≤ r) was compared, shape ``(k,)``.
        band: Simultaneous 95% band of that share for one quantity, shape ``(2, k)``.
        bins: Number of bins of the chi-square test.
    """

    ecdf_p_values: np.ndarray
    chi_square_p_values: np.ndarray
    adjusted_p_values: np.ndarray
    points: np.ndarray
    band: np.ndarray
    bins: int

    @property
    def uniform(self) -> bool:
        """Whether no quantity's adjusted p-value is below 5%."""
        return bool(np.all(self.adjusted_p_values >= LEVEL))

    def as_dict(self) -> dict:
        """The p-values and the verdict, ready for JSON."""
        return {
            "ecdf_p_values": self.ecdf_p_values.tolist(),
            "chi_square_p_values": self.chi_square_p_values.tolist(),
            "adjusted_p_values": self.adjusted_p_values.tolist(),
            "bins": self.bins,
            "uniform": self.uniform,
        }


def rank_bins(simulations: int, largest: int) -> Int[np.ndarray, " b"]:
    """First ranks of at most 20 bins, and L + 1; each expects five ranks or more."""
    bins = max(2, min(BINS, simulations // EXPECTED_IN_BIN, largest + 1))
    return np.linspace(0, largest + 1, bins + 1).astype(int)


def _holm(p_values: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
    """P-values adjusted for their number (Holm 1979)."""
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


class _Bands:
    """Pointwise binomial bands for the number of N ranks up to each point.

    Args:
        simulations: N.
        largest: L, the largest rank.
    """

    def __init__(self, simulations: int, largest: int):
        self.simulations = simulations
        count = min(POINTS, largest)
        self.points = np.unique(np.linspace(0, largest - 1, count).round().astype(int))
        self.probabilities = (self.points + 1) / (largest + 1)
        counts = np.arange(simulations + 1)[:, None]
        below = scipy.stats.binom.cdf(counts, simulations, self.probabilities)
        above = scipy.stats.binom.sf(counts - 1, simulations, self.probabilities)
        self.tails = np.minimum(1.0, 2 * np.minimum(below, above))
        between = np.diff(self.probabilities, prepend=0.0, append=1.0)
        # A property of N and L alone: with a fixed seed, ranks decide the p-values.
        rng = np.random.default_rng(0)
        null = rng.multinomial(simulations, between, size=NULL_SIMULATIONS)
        self.null = np.sort(self.smallest_tail(np.cumsum(null, axis=1)[:, :-1]))

    def smallest_tail(self, counts: Int[np.ndarray, "s k"]) -> Float[np.ndarray, " s"]:
        """The smallest two-sided pointwise tail probability along each path."""
        return np.min(self.tails[counts, np.arange(counts.shape[1])], axis=1)

    def p_values(self, counts: Int[np.ndarray, "s k"]) -> Float[np.ndarray, " s"]:
        """How often uniform ranks have a tail as small."""
        as_small = np.searchsorted(self.null, self.smallest_tail(counts), side="right")
        return (1 + as_small) / (1 + len(self.null))

    def band(self) -> Float[np.ndarray, "2 k"]:
        """Shares that a path of uniform ranks stays within with probability 95%."""
        tail = self.null[int(LEVEL * len(self.null))]
        ends = scipy.stats.binom.ppf(
            np.array([[tail / 2], [1 - tail / 2]]), self.simulations, self.probabilities
        )
        return ends / self.simulations


@functools.lru_cache(maxsize=16)
def _bands(simulations: int, largest: int) -> _Bands:
    return _Bands(simulations, largest)


def _chi_square(ranks: Int[np.ndarray, "n q"], largest: int) -> tuple[np.ndarray, int]:
    """P-values of Pearson's test on bins, and their number."""
    edges = rank_bins(len(ranks), largest)
    expected = len(ranks) * np.diff(edges) / (largest + 1)
    observed = np.stack([np.histogram(column, edges - 0.5)[0] for column in ranks.T])
    result = scipy.stats.chisquare(observed, expected[None, :], axis=1)
    return np.asarray(result.pvalue), len(expected)


def uniformity_test(ranks: Int[np.ndarray, "n q"], largest: int) -> Uniformity:
    """Test whether each column of ranks is uniform on the integers 0 … L.

    The distribution function of the ranks is held against pointwise binomial bands that
    are widened until all of a uniform path stays inside with probability 95%; the widening
    comes from 10,000 simulated paths. The chi-square test on at most 20 bins is reported
    beside it and does not enter the verdict.

    Args:
        ranks: Shape ``(n, q)``.
        largest: L.

    Returns:
        P-values of both tests, adjusted ones, and the band.

    Raises:
        DataError: Too few ranks, or ranks out of range.

    References:
        Säilynoja, Bürkner & Vehtari (2022), https://arxiv.org/abs/2103.10522.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or ranks.shape[1] == 0 or len(ranks) < 2 * EXPECTED_IN_BIN:
        raise DataError(f"ranks: expected shape (n, q) with n of 10 or more, got {ranks.shape}")
    if not np.issubdtype(ranks.dtype, np.integer) or ranks.min() < 0 or ranks.max() > largest:
        raise DataError(f"ranks: expected integers from 0 to {largest}")
    bands = _bands(len(ranks), largest)
    counts = np.sum(ranks[:, :, None] <= bands.points, axis=0)
    p_values = bands.p_values(counts)
    chi_square, bins = _chi_square(ranks, largest)
    return Uniformity(
        ecdf_p_values=p_values,
        chi_square_p_values=chi_square,
        adjusted_p_values=_holm(p_values),
        points=bands.points,
        band=bands.band(),
        bins=bins,
    )
