"""Shares of draws in each mode, against those of the reference."""

import dataclasses
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from avb._errors import ConfigError, DataError
from avb.diagnostics._draws import check_pair, scale_of

# A mode with less than this part of its due counts as missed.
MISSED_BELOW = 0.1


@dataclasses.dataclass(frozen=True)
class ModeCoverage:
    """Where draws fall, mode by mode.

    Attributes:
        shares: Share of the draws in each mode, shape ``(k,)``.
        reference_shares: Share of the reference draws, shape ``(k,)``.
        errors: Standard error of each difference of the two, shape ``(k,)``, for
            independent draws.
        missed: Number of modes whose share is below a tenth of the reference's.
        total_variation: ½ Σ |share − reference share|, the weight in wrong modes.
        p_value: Of a chi-square test that both fall into the modes with equal
            probabilities; for independent draws, and a few in every mode at least.
    """

    shares: np.ndarray
    reference_shares: np.ndarray
    errors: np.ndarray
    missed: int
    total_variation: float
    p_value: float

    def as_dict(self) -> dict:
        """All fields, ready for JSON."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in dataclasses.asdict(self).items()
        }


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Index of the nearest centre of each point."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=1).fit(centres)
    return search.kneighbors(points, return_distance=False)[:, 0]


def _check_labels(labels: ArrayLike, reference: np.ndarray) -> np.ndarray:
    array = np.asarray(labels)
    if array.shape != (len(reference),):
        raise DataError(f"labels: expected shape ({len(reference)},), got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise DataError("labels: expected integers from 0, one a reference draw")
    return array


def mode_coverage(
    draws: ArrayLike,
    reference: ArrayLike,
    *,
    modes: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> ModeCoverage:
    """Compare the shares of draws and of reference draws that fall into each mode.

    Modes are given by their centres, and a draw belongs to the nearest; or by a label of
    each reference draw, and a draw belongs to that of its nearest reference draw.
    Distances are in units of the reference's standard deviations (interquartile scale
    where the tails decide them).

    Args:
        draws: Shape ``(n, d)``.
        reference: Shape ``(m, d)``.
        modes: Centres, shape ``(k, d)``.
        labels: Mode of each reference draw, integers of shape ``(m,)``.

    Returns:
        The shares with standard errors, and the number of modes missed.

    Raises:
        ConfigError: Not exactly one of ``modes`` and ``labels``.
        DataError: Arrays that do not fit each other, or are not finite.
    """
    if (modes is None) == (labels is None):
        raise ConfigError("mode coverage: expected either modes or labels of the reference draws")
    draws, reference = check_pair(draws, reference)
    scale = scale_of(reference)
    scaled, scaled_reference = scale.apply(draws), scale.apply(reference)
    if labels is None:
        centres = np.asarray(modes, np.float64)
        if centres.ndim != 2 or centres.shape[1] != draws.shape[1] or len(centres) == 0:
            raise DataError(f"modes: expected shape (k, {draws.shape[1]}), got {centres.shape}")
        if not np.isfinite(centres).all():
            raise DataError("modes: expected finite numbers, got NaN or infinity")
        centres = scale.apply(centres)
        count = len(centres)
        own, reference_own = _nearest(scaled, centres), _nearest(scaled_reference, centres)
    else:
        reference_own = _check_labels(labels, reference)
        count = int(reference_own.max()) + 1
        own = reference_own[_nearest(scaled, scaled_reference)]
    counts = np.bincount(own, minlength=count)
    reference_counts = np.bincount(reference_own, minlength=count)
    return _coverage(counts, reference_counts)


def _coverage(counts: np.ndarray, reference_counts: np.ndarray) -> ModeCoverage:
    n, m = counts.sum(), reference_counts.sum()
    p, r = counts / n, reference_counts / m
    table = np.stack([counts, reference_counts])
    table = table[:, table.sum(axis=0) > 0]
    p_value = 1.0
    if table.shape[1] > 1:
        test: Any = scipy.stats.chi2_contingency(table, correction=False)
        p_value = float(test.pvalue)
    return ModeCoverage(
        shares=p,
        reference_shares=r,
        errors=np.sqrt(p * (1 - p) / n + r * (1 - r) / m),
        missed=int(np.sum(p < MISSED_BELOW * r)),
        total_variation=float(0.5 * np.sum(np.abs(p - r))),
        p_value=p_value,
    )
