"""Rank runs by a quantity, only as far as their brackets tell them apart."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

STANDARD_ERRORS = 3.0
ANNEALING = "annealed importance sampling"
SIMULATED = "log p(x), simulated data"


@dataclasses.dataclass(frozen=True)
class Bracket:
    """What a quantity lies between, in nats per datum, Monte Carlo errors included."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Rank:
    """The best and the worst place that a run can have among others, from 1."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}–{self.worst}"


def elbo_bracket_of(document: dict[str, Any]) -> Bracket:
    """Where a run's ELBO lies; an end without a bound is infinite.

    Args:
        document: What ``evaluate_run`` gave.
    """
    low, high = -math.inf, math.inf
    for row in document["rows"]:
        if row["quantity"] != "ELBO":
            continue
        if row["kind"] in ("exact", "lower bound"):
            low = max(low, _end(row, -1))
        if row["kind"] in ("exact", "upper bound"):
            high = min(high, _end(row, +1))
    return Bracket(low, high)


def evidence_bracket_of(document: dict[str, Any]) -> Bracket:
    """Where a run's mean log p(x) lies on the data that were annealed.

    From below the bound of annealed importance sampling. No bound from above is known on
    real data; the gap between both bounds on data simulated from the model, which is the
    sampler's error there, stands in for it (Wu et al. 2017,
    https://arxiv.org/abs/1611.04273).

    Args:
        document: What ``evaluate_run`` gave.
    """
    rows = {(row["quantity"], row["kind"]): row for row in document["rows"] if _annealed(row)}
    bound = rows.get(("log p(x)", "lower bound"))
    if bound is None:
        return Bracket(-math.inf, math.inf)
    lower, upper = rows.get((SIMULATED, "lower bound")), rows.get((SIMULATED, "upper bound"))
    if lower is None or upper is None:
        return Bracket(_end(bound, -1), math.inf)
    gap = max(upper["nats_per_datum"] - lower["nats_per_datum"], 0.0)
    error = math.hypot(bound["standard_error"], lower["standard_error"], upper["standard_error"])
    high = bound["nats_per_datum"] + gap + STANDARD_ERRORS * error
    return Bracket(_end(bound, -1), high)


def ranks(brackets: Sequence[Bracket]) -> list[Rank]:
    """The places of runs, highest first: one is ahead of another only if no value is in both.

    Args:
        brackets: One a run.
    """
    total = len(brackets)
    return [
        Rank(
            best=1 + sum(other.low > own.high for other in brackets),
            worst=total - sum(other.high < own.low for other in brackets),
        )
        for own in brackets
    ]


def _annealed(row: dict[str, Any]) -> bool:
    return row["quantity"] == SIMULATED or row["estimator"] == ANNEALING


def _end(row: dict[str, Any], sign: int) -> float:
    return row["nats_per_datum"] + sign * STANDARD_ERRORS * row["standard_error"]
