"""Averages of weights given by their logs, and how far to trust them; on the host, in float64."""

import contextlib
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

# The tail that the Pareto fit needs is a fifth of the weights and at least 5 of them.
FEWEST_FOR_PARETO = 25
# Beyond it, the middle of the tail is zero beside the largest weight in float64.
LARGEST_SPREAD = 700.0


class LogMean(NamedTuple):
    """The log of a mean weight, one a row.

    Attributes:
        values: Log of the mean weight, in nats, shape ``(n,)``.
        errors: Its standard error by the delta method: the relative one of the mean weight.
        effective: Effective number of weights, (Σw)² / Σw².
    """

    values: np.ndarray
    errors: np.ndarray
    effective: np.ndarray


def log_mean_weights(log_weights: np.ndarray) -> LogMean:
    """Log of the mean weight of each row.

    Args:
        log_weights: Shape ``(n, s)``, with s at least 2; −∞ is a weight of zero.
    """
    log_weights = np.asarray(log_weights, np.float64)
    count = log_weights.shape[1]
    first = logsumexp(log_weights, axis=1)
    # A row without any weight has a mean of zero, known to no accuracy at all.
    empty = first == -np.inf
    level = np.where(empty, 0.0, first)
    shares = np.exp(log_weights - level[:, None])
    effective = np.where(empty, 0.0, 1.0 / np.maximum(np.sum(shares**2, axis=1), 1.0 / count))
    variance = np.var(shares, axis=1, ddof=1) * count
    errors = np.where(empty, np.inf, np.sqrt(variance))
    return LogMean(first - np.log(count), errors, effective)


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k̂ of each row of log weights, shape ``(n,)``.

    It is ∞ where most weights of the tail vanish beside the largest.

    Args:
        log_weights: Shape ``(n, s)``, with s at least ``FEWEST_FOR_PARETO``.

    References:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), https://arxiv.org/abs/1507.02646,
        section 3 (the fit is ArviZ's).
    """
    from arviz_stats.base.array import array_stats

    log_weights = np.asarray(log_weights, np.float64)
    count = log_weights.shape[1]
    in_tail = int(3 * np.sqrt(count)) if count > 225 else count // 5
    middle = np.partition(log_weights, count - in_tail // 2, axis=1)[:, count - in_tail // 2]
    with np.errstate(invalid="ignore"):
        spread = np.max(log_weights, axis=1) - middle
    result = np.full(len(log_weights), np.inf)
    for row in np.flatnonzero(spread < LARGEST_SPREAD):
        # Weights that are equal to the last bit have no tail: their k̂ is 0.
        with contextlib.suppress(ValueError), np.errstate(all="ignore"):
            result[row] = 0.0
            result[row] = np.nan_to_num(array_stats.psislw(-log_weights[row])[1])
    return result
