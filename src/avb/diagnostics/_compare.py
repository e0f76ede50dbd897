"""All two-sample checks at once."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from avb._types import Key
from avb.diagnostics._classifier import ClassifierTest, c2st
from avb.diagnostics._draws import check_pair, coordinate_names, scale_of
from avb.diagnostics._kernel import energy_distance, mmd_test
from avb.diagnostics._modes import ModeCoverage, mode_coverage
from avb.diagnostics._permutation import PermutationTest
from avb.diagnostics._wasserstein import sliced_wasserstein

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Marginals:
    """Errors of each coordinate's mean, spread and quantiles.

    In standard deviations of the reference; where the tails decide these, in
    interquartile ranges over 1.349.

    Attributes:
        names: Names of the coordinates.
        mean: Mean of the draws less that of the reference, shape ``(d,)``.
        mean_error: Its Monte Carlo standard error for independent draws, shape ``(d,)``.
        deviation: Standard deviation of the draws less that of the reference, shape ``(d,)``.
        quantile: The same of the quantiles at ``levels``, shape ``(5, d)``.
        levels: 5%, 25%, 50%, 75% and 95%.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    mean_error: np.ndarray
    deviation: np.ndarray
    quantile: np.ndarray
    levels: tuple[float, ...] = QUANTILES

    def as_dict(self) -> dict:
        """All fields, ready for JSON."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else list(value)
            for name, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What every two-sample check says of draws and reference draws.

    Attributes:
        classifier: Classifier two-sample test.
        mmd: Unbiased MMD² with a Gaussian kernel.
        energy: Energy distance.
        wasserstein: Sliced Wasserstein distance.
        marginals: Errors coordinate by coordinate.
        modes: Shares of the modes, where they were given.
    """

    classifier: ClassifierTest
    mmd: PermutationTest
    energy: PermutationTest
    wasserstein: PermutationTest
    marginals: Marginals
    modes: ModeCoverage | None = None

    def as_dict(self) -> dict:
        """All results as numbers, lists and strings, ready for JSON."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: None if part is None else part.as_dict() for name, part in parts.items()}


def _marginals(draws: np.ndarray, reference: np.ndarray, names: tuple[str, ...]) -> Marginals:
    scale = scale_of(reference)
    draws, reference = scale.apply(draws), scale.apply(reference)
    variances = draws.var(axis=0) / len(draws) + reference.var(axis=0) / len(reference)
    return Marginals(
        names=names,
        mean=draws.mean(axis=0) - reference.mean(axis=0),
        mean_error=np.sqrt(variances),
        deviation=draws.std(axis=0) - reference.std(axis=0),
        quantile=np.quantile(draws, QUANTILES, axis=0) - np.quantile(reference, QUANTILES, axis=0),
    )


def compare_draws(
    draws: ArrayLike,
    reference: ArrayLike,
    *,
    key: Key,
    names: Sequence[str] | None = None,
    modes: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> Comparison:
    """Run all two-sample checks with their default settings.

    Args:
        draws: Shape ``(n, d)``, taken as independent.
        reference: Shape ``(m, d)``, taken as independent: thin the chains of a sampler.
        key: PRNG key.
        names: Names of the coordinates.
        modes: Centres of the modes, if known: see :func:`mode_coverage`.
        labels: Mode of each reference draw, if known.

    Returns:
        The results of all checks.

    Raises:
        ConfigError: Another number of names than of coordinates.
        DataError: Arrays that do not fit each other, are too short, or are not finite.
    """
    draws, reference = check_pair(draws, reference)
    all_names = coordinate_names(names, draws.shape[1])
    modes_given = modes is not None or labels is not None
    keys = jax.random.split(key, 4)
    return Comparison(
        classifier=c2st(draws, reference, key=keys[0]),
        mmd=mmd_test(draws, reference, key=keys[1]),
        energy=energy_distance(draws, reference, key=keys[2]),
        wasserstein=sliced_wasserstein(draws, reference, key=keys[3]),
        marginals=_marginals(draws, reference, all_names),
        modes=mode_coverage(draws, reference, modes=modes, labels=labels) if modes_given else None,
    )
