"""Classifier two-sample test."""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from avb._errors import ConfigError, DataError
from avb._types import Key
from avb.diagnostics._draws import (
    FEWEST_DRAWS,
    check_at_least,
    check_pair,
    generator,
    scale_of,
    subset,
)

Classifier = Literal["boosting", "logistic"]


@dataclasses.dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier tells draws from reference draws.

    Attributes:
        accuracy: Cross-validated share of right answers; 0.5 where there is nothing to tell.
        standard_error: √(a (1 − a) / 2n), that of 2n answers taken as independent.
        null_mean: Mean accuracy of reference against reference.
        null_deviation: Its standard deviation over the repetitions.
        null_band: Where one further accuracy of reference against reference lies with
            probability 95%: the null mean ± t · √(1 + 1/R) null deviations, with Student's
            quantile of R − 1 degrees of freedom. Both comparisons have n draws a side.
        size: n, draws of each side of every comparison.
        repetitions: R, the comparisons of reference against reference.
        folds: Folds of the cross-validation.
        classifier: The classifier.
    """

    accuracy: float
    standard_error: float
    null_mean: float
    null_deviation: float
    null_band: tuple[float, float]
    size: int
    repetitions: int
    folds: int
    classifier: Classifier

    @property
    def inside(self) -> bool:
        """Whether the accuracy lies in the null band."""
        return self.null_band[0] <= self.accuracy <= self.null_band[1]

    def as_dict(self) -> dict:
        """All fields and the verdict, ready for JSON."""
        return {**dataclasses.asdict(self), "inside": self.inside}


def _estimator(classifier: Classifier):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    if classifier == "logistic":
        return LogisticRegression()
    # Half the iterations and leaves of the default: faster, and better on small differences.
    return HistGradientBoostingClassifier(
        max_iter=50,
        max_leaf_nodes=15,
        early_stopping=False,  # pyright: ignore[reportArgumentType]
        random_state=0,
    )


def _accuracy(
    first: np.ndarray, second: np.ndarray, classifier: Classifier, folds: int, seed: int
) -> float:
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    inputs = np.concatenate([first, second])
    labels = np.arange(len(inputs)) < len(first)
    # Folds of equal size, so that the mean over folds is the share of right answers.
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # OpenMP's threads wait by spinning: two processes with one for every core hold each other up
    # for minutes, and so few draws gain little from more than one.
    with threadpool_limits(1):
        scores = cross_val_score(_estimator(classifier), inputs, labels, cv=split)
    return float(np.mean(scores))


def _common_size(draws: np.ndarray, reference: np.ndarray, folds: int, max_draws: int) -> int:
    """Draws a side that both comparisons can have, a multiple of the number of folds."""
    size = min(len(draws), len(reference) // 2, max_draws) // folds * folds
    if size < max(FEWEST_DRAWS, 2 * folds):
        raise DataError(
            f"reference: expected at least {2 * max(FEWEST_DRAWS, 2 * folds)} draws, two halves "
            f"for the null band, and half as many draws; got {len(reference)} and {len(draws)}"
        )
    return size


def c2st(
    draws: ArrayLike,
    reference: ArrayLike,
    *,
    key: Key,
    classifier: Classifier = "boosting",
    folds: int = 5,
    repetitions: int = 10,
    max_draws: int = 5000,
) -> ClassifierTest:
    """Train a classifier to tell draws from reference draws; report what it gets right.

    The same n draws a side enter every comparison: n = min(draws, half the reference,
    ``max_draws``). The null band comes from splitting the reference at random into two
    disjoint sets of n, several times. It shows the accuracy of a perfect sampler that
    gives independent draws, with this classifier, dimension and size. A reference from a
    chain must be thinned: its neighbours resemble each other more than any draws do.

    Coordinates are scaled by the reference's mean and standard deviation (median and
    interquartile scale where the tails decide the moments); boosted trees do not mind.

    Args:
        draws: Shape ``(n, d)``.
        reference: Shape ``(m, d)``.
        key: PRNG key of subsets and folds.
        classifier: ``"boosting"``: boosted trees (scikit-learn's
            ``HistGradientBoostingClassifier``, 50 trees of at most 15 leaves);
            ``"logistic"``: linear, sees differences of the means only.
        folds: Folds of the cross-validation, at least 2.
        repetitions: Splits of the reference, at least 3.
        max_draws: Most draws a side; time grows linearly with it.

    Returns:
        Accuracy, its standard error, and the null band.

    Raises:
        ConfigError: An unknown classifier, or settings out of range.
        DataError: Arrays that do not fit each other, are too short, or are not finite.

    References:
        Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545.
    """
    if classifier not in get_args(Classifier):
        known = " or ".join(repr(name) for name in get_args(Classifier))
        raise ConfigError(f"classifier: expected {known}, got {classifier!r}")
    check_at_least("folds", 2, folds)
    check_at_least("repetitions", 3, repetitions)
    check_at_least("max_draws", max(FEWEST_DRAWS, 2 * folds), max_draws)
    draws, reference = check_pair(draws, reference)
    size = _common_size(draws, reference, folds, max_draws)
    scale = scale_of(reference)
    draws, reference = scale.apply(draws), scale.apply(reference)
    rng = generator(key)
    seeds = rng.integers(2**31, size=repetitions + 1)
    sides = subset(rng, draws, size), subset(rng, reference, size)
    accuracy = _accuracy(*sides, classifier, folds, int(seeds[0]))
    null = np.empty(repetitions)
    for repetition in range(repetitions):
        order = rng.permutation(len(reference))
        halves = reference[order[:size]], reference[order[size : 2 * size]]
        null[repetition] = _accuracy(*halves, classifier, folds, int(seeds[repetition + 1]))
    mean, deviation = float(np.mean(null)), float(np.std(null, ddof=1))
    reach = scipy.stats.t.ppf(0.975, repetitions - 1) * math.sqrt(1 + 1 / repetitions) * deviation
    return ClassifierTest(
        accuracy=accuracy,
        standard_error=math.sqrt(accuracy * (1 - accuracy) / (2 * size)),
        null_mean=mean,
        null_deviation=deviation,
        null_band=(mean - float(reach), mean + float(reach)),
        size=size,
        repetitions=repetitions,
        folds=folds,
        classifier=classifier,
    )
