"""Numbers with what they are: a bound, exact, or an estimate, and their Monte Carlo errors."""

import dataclasses
from typing import Literal

import numpy as np

Kind = Literal["exact", "lower bound", "upper bound", "critic estimate, not a bound"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity averaged over data, in nats per datum.

    Attributes:
        quantity: ``"ELBO"`` or ``"log p(x)"``.
        kind: What the number is.
        values: One value a datum, shape ``(n,)``.
        errors: Monte Carlo standard error of each value, shape ``(n,)``.
        detail: How it was computed, in a few words.
    """

    quantity: str
    kind: Kind
    values: np.ndarray
    errors: np.ndarray
    detail: str

    @property
    def mean(self) -> float:
        """Mean over the data, in nats per datum."""
        return float(np.mean(self.values, dtype=np.float64))

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of the mean; the data are taken as given."""
        squares = np.sum(np.square(self.errors, dtype=np.float64))
        return float(np.sqrt(squares) / len(self.errors))

    def as_dict(self) -> dict[str, str | float | int]:
        """The summary, ready for JSON."""
        return {
            "quantity": self.quantity,
            "kind": self.kind,
            "nats_per_datum": self.mean,
            "standard_error": self.standard_error,
            "data": len(self.values),
            "detail": self.detail,
        }
