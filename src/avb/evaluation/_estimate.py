"""Numbers with what they are: a bound, exact, or an estimate, and their Monte Carlo errors."""

import dataclasses
import math
from typing import Any, Literal

import numpy as np

Kind = Literal[
    "exact",
    "lower bound",
    "upper bound",
    "estimate, not a bound",
    "critic estimate, not a bound",
]

# Standard errors by which a number must exceed another before it is said to.
SIGMAS = 3.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity averaged over data, in nats per datum.

    Attributes:
        quantity: What is estimated, such as ``"ELBO"`` or ``"log p(x)"``.
        kind: What the number is.
        estimator: Where it comes from, such as ``"importance weighting"``.
        values: One value a datum, shape ``(n,)``.
        errors: Monte Carlo standard error of each value, shape ``(n,)``.
        detail: With which settings it was computed, in a few words.
        effective: Effective number of samples behind each value, shape ``(n,)``, where the
            estimate is an average of weights.
        pareto_k: Pareto k̂ of each datum's weights, shape ``(n,)``; above 0.7 their average
            cannot be trusted (Vehtari et al. 2024, https://arxiv.org/abs/1507.02646).
        flag: Why the number is wrong, in a sentence; ``None`` where nothing speaks against it.
        doubt: Why nothing vouches for the number, in a sentence; ``None`` where something does,
            or nothing was asked.
    """

    quantity: str
    kind: Kind
    estimator: str
    values: np.ndarray
    errors: np.ndarray
    detail: str
    effective: np.ndarray | None = None
    pareto_k: np.ndarray | None = None
    flag: str | None = None
    doubt: str | None = None

    @property
    def mean(self) -> float:
        """Mean over the data, in nats per datum."""
        return float(np.mean(self.values, dtype=np.float64))

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of the mean; the data are taken as given."""
        squares = np.sum(np.square(self.errors, dtype=np.float64))
        return float(np.sqrt(squares) / len(self.errors))

    @property
    def standard_error_over_data(self) -> float:
        """How far the mean would vary on as many other data of the same kind.

        Infinite for one datum, or where a value is.
        """
        count = len(self.values)
        if count < 2 or not np.isfinite(self.values).all():
            return math.inf
        return float(np.std(self.values, ddof=1, dtype=np.float64)) / math.sqrt(count)

    def as_dict(self) -> dict[str, Any]:
        """The summary, ready for JSON; entries that do not apply are left out."""
        summary: dict[str, Any] = {
            "quantity": self.quantity,
            "kind": self.kind,
            "estimator": self.estimator,
            "nats_per_datum": self.mean,
            "standard_error": self.standard_error,
            "data": len(self.values),
            "detail": self.detail,
        }
        if len(self.values) > 1:
            summary["standard_error_over_data"] = self.standard_error_over_data
        if self.effective is not None:
            summary["effective_samples_median"] = float(np.median(self.effective))
            summary["effective_samples_min"] = float(np.min(self.effective))
        if self.pareto_k is not None:
            summary["pareto_k_median"] = float(np.median(self.pareto_k))
            summary["pareto_k_share_above_0.7"] = float(np.mean(self.pareto_k > 0.7))
        if self.flag is not None:
            summary["flag"] = self.flag
        if self.doubt is not None:
            summary["doubt"] = self.doubt
        return summary
