"""A grid over what can be set about a critic: cells, and which of them share a program."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from avb._types import Scalar
from avb.objectives import (
    AbstractObjective,
    DonskerVaradhan,
    KLDual,
    LeastSquares,
    Logistic,
    WeightedLogistic,
)

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
STEPS = (1, 4)
WIDTHS = (0.25, 1.0, 2.0)
CONTRASTS = ("prior", "learned Gaussian", "anchored moments")
OBJECTIVES: dict[str, AbstractObjective] = {
    "logistic": Logistic(),
    "weighted logistic": WeightedLogistic(),
    "KL dual": KLDual(),
    "Donsker–Varadhan": DonskerVaradhan(),
    "least squares": LeastSquares(),
}


class Chosen(AbstractObjective):
    """One of the five objectives, by a number that may differ from run to run.

    The others see zeros in place of T: what they would make of it, infinities included,
    reaches neither value nor gradient.
    """

    index: Int32[Array, ""]

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        losses = [
            objective.loss(
                jnp.where(self.index == number, on_posterior, 0.0),
                jnp.where(self.index == number, on_contrast, 0.0),
            )
            for number, objective in enumerate(OBJECTIVES.values())
        ]
        return jnp.stack(losses)[self.index]

    def offset(self, on_contrast: Float[Array, "n m"]) -> Scalar:
        offsets = [objective.offset(on_contrast) for objective in OBJECTIVES.values()]
        return jnp.stack(offsets)[self.index]


class Structure(NamedTuple):
    """What changes the program.

    Attributes:
        contrast: One of ``CONTRASTS``.
        steps: Critic steps a model step.
        width: Hidden units of the critic, over those of the problem's default.
    """

    contrast: str
    steps: int = 1
    width: float = 1.0

    @property
    def name(self) -> str:
        """As a key of the results."""
        return f"{self.contrast}, {self.steps} steps, width × {self.width:g}"


class Cell(NamedTuple):
    """One setting of everything.

    Attributes:
        structure: What changes the program.
        objective: One of ``OBJECTIVES``.
        rate: The critic's peak rate over that of the problem's default.
    """

    structure: Structure
    objective: str
    rate: float = 1.0


# What the presets use where nothing is said: the middle of every grid.
PRESET = Cell(Structure("anchored moments"), "weighted logistic")


def programs(default: Cell) -> dict[Structure, list[Cell]]:
    """The cells of each program: pairs of changes to a default.

    Contrast × rate at the default's objective, contrast × objective at its rate, steps × rate and
    width × rate at its contrast and objective.
    """
    contrast = default.structure.contrast
    paired = [Structure(contrast, steps=steps) for steps in STEPS if steps != 1]
    paired += [Structure(contrast, width=width) for width in WIDTHS if width != 1.0]
    crossed = [
        (objective, rate)
        for objective, rate in itertools.product(OBJECTIVES, RATES)
        if objective == default.objective or rate == default.rate
    ]
    cells = {
        structure: [Cell(structure, *rest) for rest in crossed]
        for structure in map(Structure, CONTRASTS)
    }
    for structure in paired:
        cells[structure] = [Cell(structure, default.objective, rate) for rate in RATES]
    return cells
