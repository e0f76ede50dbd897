"""Differences between runs, datum by datum: how far a lead carries beyond the data at hand."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from avb.runs._evaluate import read_values
from avb.runs._load import Run

# The tightest first.
ESTIMATORS = ("annealed importance sampling", "importance weighting")


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean over data of a run's log p(x) less that of the best run.

    Attributes:
        estimator: The lower bound that both numbers are.
        nats_per_datum: The mean difference; 0 for the best run itself.
        standard_error_over_data: Of that mean, over data: what other data of the same kind
            would change. Monte Carlo errors are in it. 0 for the best run.
        data: On how many data.
    """

    estimator: str
    nats_per_datum: float
    standard_error_over_data: float
    data: int


def behind_best(runs: Sequence[Run], documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each document with ``behind_best``: how far the run is behind the best, datum by datum.

    By the tightest bound of log p(x) that all have; ``None`` where none is, where the values of
    the run or of the best were not kept, or are not finite.

    Args:
        runs: The runs.
        documents: What ``evaluate_run`` gave for each, on the same data.
    """
    for estimator in ESTIMATORS:
        rows = [_row(document, estimator) for document in documents]
        if all(row is not None for row in rows):
            known = [row for row in rows if row]
            means = [row["nats_per_datum"] for row in known]
            values = [read_values(run, row) for run, row in zip(runs, known, strict=True)]
            found = differences(estimator, means, values)
            break
    else:
        found = [None for _ in documents]
    return [
        {**document, "behind_best": difference and dataclasses.asdict(difference)}
        for document, difference in zip(documents, found, strict=True)
    ]


def _row(document: dict[str, Any], estimator: str) -> dict[str, Any] | None:
    for row in document["rows"]:
        if row["quantity"] == "log p(x)" and row["estimator"] == estimator:
            return row
    return None


def differences(
    estimator: str, means: Sequence[float], values: Sequence[np.ndarray | None]
) -> list[Difference | None]:
    """How far each run is behind the best; ``None`` where its values, or the best's, are missing.

    Args:
        estimator: Where the values come from.
        means: A run's log p(x) over the data, kept values or not.
        values: The same datum by datum, shape ``(n,)``, on the same data for all; ``None`` where
            they were not kept.
    """
    best = values[int(np.argmax(means))]
    return [_difference(estimator, of_run, best) for of_run in values]


def _difference(
    estimator: str, of_run: np.ndarray | None, best: np.ndarray | None
) -> Difference | None:
    if of_run is None or best is None or not np.isfinite([of_run, best]).all():
        return None
    each = np.subtract(of_run, best, dtype=np.float64)
    count = len(each)
    if of_run is best:
        error = 0.0
    else:
        error = float(np.std(each, ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Difference(estimator, float(np.mean(each)), error, count)
