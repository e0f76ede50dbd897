"""Settings of an evaluation. Imports no JAX, so that the command line starts quickly."""

import dataclasses
import math
from typing import Literal

from avb._errors import ConfigError

ProposalName = Literal["gaussian", "mixture", "flow"]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How precisely to evaluate; zero data turn a part off.

    Attributes:
        draws: Posterior draws a datum for the ELBO.
        bracket_width: Width of the semi-implicit bracket, in nats, at which K stops growing.
        max_components: K at most, where the bracket is still wider.
        critics: Fresh critics for a posterior whose ELBO has no bracket; 0 turns them off, and
            with them the verdict on the critic of training.
        importance_samples: Samples a datum of the importance-weighted bound.
        proposal: What they are drawn from: gaussian, mixture or flow, fitted to posterior draws.
        annealed_data: The first so many data get annealed importance sampling and the split of
            the inference gap; as many are simulated for the upper bound.
        temperatures: Temperatures of the annealing.
        chains: Annealed chains a datum.
        quality_data: The first so many data for active units and mutual information.
    """

    draws: int = 32
    bracket_width: float = 0.05
    max_components: int = 4096
    critics: int = 3
    importance_samples: int = 1000
    proposal: ProposalName = "gaussian"
    annealed_data: int = 100
    temperatures: int = 500
    chains: int = 4
    quality_data: int = 1000

    def __post_init__(self):
        least = {
            "draws": 2,
            "max_components": 1,
            "critics": 0,
            "importance_samples": 2,
            "annealed_data": 0,
            "temperatures": 2,
            "chains": 1,
            "quality_data": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name}: expected at least {minimum}, got {getattr(self, name)}")
        if not (self.bracket_width > 0 and math.isfinite(self.bracket_width)):
            raise ConfigError(
                f"bracket_width: expected a positive number of nats, got {self.bracket_width}"
            )
