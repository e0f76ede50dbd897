"""Bounds of log p(x) image by image, as ``experiments.margins`` keeps them, and what they tell.

Each image is weighted by importance, the first of them are annealed besides. Annealing adds more to
images of low log p(x); what it adds on some corrects the mean of the weighted bounds on all.
"""

import dataclasses

import numpy as np
from scipy.special import logsumexp

# Images of a chunk that is kept, by estimator.
CHUNKS = {"importance": 1000, "annealed": 100}
FIRST = 100
# Files that were made before it was kept don't tell.
SETTINGS = "samples, temperatures"

Bounds = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Margin:
    """Mean over images, of a difference of two runs or of one run, and its standard error."""

    nats: float
    error: float

    @classmethod
    def over(cls, differences: np.ndarray) -> "Margin":
        count = len(differences)
        return cls(float(np.mean(differences)), float(np.std(differences, ddof=1) / count**0.5))


def margins(ahead: Bounds, behind: Bounds) -> dict[str, Margin]:
    """Of one run over another, by estimator and images."""
    differences = {
        name: np.subtract(ahead[name][:count], behind[name][:count])
        for name in CHUNKS
        for count in [min(len(ahead[name]), len(behind[name]))]
    }
    weighted, annealed = differences["importance"], differences["annealed"]
    correction = Margin.over(annealed - weighted[: len(annealed)])
    whole = Margin.over(weighted)
    return {
        f"importance weighting, first {FIRST}": Margin.over(weighted[:FIRST]),
        f"annealing, first {FIRST}": Margin.over(annealed[:FIRST]),
        f"importance weighting, first {len(annealed)}": Margin.over(weighted[: len(annealed)]),
        f"annealing, first {len(annealed)}": Margin.over(annealed),
        f"importance weighting, first {len(weighted)}": whole,
        f"both, first {len(weighted)}": Margin(
            whole.nats + correction.nats, float(np.hypot(whole.error, correction.error))
        ),
    }


def levels(*runs: Bounds) -> list[float]:
    """Mean log p(x) of each run on all images by both estimators, the same images annealed."""
    count = min(len(bounds["annealed"]) for bounds in runs)
    return [float(np.mean(run["importance"]) + np.mean(added(run, count))) for run in runs]


def added(run: Bounds, count: int) -> np.ndarray:
    """What annealing adds to weighting on each of the first images."""
    return np.subtract(run["annealed"][:count], run["importance"][:count])


def regressed(run: Bounds, count: int) -> Margin:
    """Mean log p(x) on all weighted images, by what weighting predicts that annealing adds.

    It adds more to images of low log p(x), of which the annealed ones may have too few or too many:
    a line is fitted to them, and taken at the mean over all (the regression estimator of survey
    sampling, Cochran 1977, chapter 7). The error is that of the line.
    """
    known, everywhere = np.asarray(run["importance"][:count]), np.mean(run["importance"])
    gains = added(run, count)
    slope, at_zero = np.polyfit(known, gains, 1)
    missed = gains - (at_zero + slope * known)
    variance = np.sum(missed**2) / (count - 2)
    distance = (everywhere - np.mean(known)) ** 2 / np.sum((known - np.mean(known)) ** 2)
    error = np.sqrt(variance * (1.0 / count + distance))
    return Margin(float(everywhere + at_zero + slope * everywhere), float(error))


def mixture(*models: Bounds) -> Bounds:
    """The bounds of p(x) = Σ_k p_k(x) / K on the images that all have."""
    found = {}
    for name in CHUNKS:
        count = min(len(model[name]) for model in models)
        joint = logsumexp([model[name][:count] for model in models], axis=0) - np.log(len(models))
        found[name] = [float(value) for value in joint]
    return found
