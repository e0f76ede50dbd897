"""Stretches of training one after the other, until the bound stalls and the rate has fallen."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key
from avb.inference._mixture import ImplicitMixture
from avb.inference._target import Target
from avb.inference._train import (
    STRETCH,
    Budget,
    State,
    draws_of_each,
    shared_components,
    start,
    stretch,
)


@dataclasses.dataclass(frozen=True)
class Underway:
    """Training between two stretches, from where it goes on bit for bit.

    Attributes:
        state: After the last stretch; of one mixture or of stacked ones.
        history: The bound of each step so far, in nats; of stacked mixtures the mean.
    """

    state: State
    history: np.ndarray

    @classmethod
    def begin(cls, mixture: ImplicitMixture) -> "Underway":
        """Before the first stretch."""
        stacked = mixture.logits.ndim > 1
        state = eqx.filter_vmap(start)(mixture) if stacked else start(mixture)
        return cls(state, np.zeros(0, mixture.logits.dtype))

    @property
    def stretches(self) -> int:
        """Stretches done."""
        return len(self.history) // STRETCH


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        mixture: The average of the last parameters.
        history: The bound of each step, in nats.
        stalled: Whether the bound had stopped rising when the rate began to fall.
        lost: Share of draws at which log p or its gradient was not finite.
        skipped: Steps without a finite gradient.
    """

    mixture: ImplicitMixture
    history: np.ndarray
    stalled: bool
    lost: float
    skipped: int


# From the state, a key and the rates at both ends to the state and the bounds of a stretch.
Stretch = Callable[[State, Key, Float[Array, "2"]], tuple[State, Float[Array, " n"]]]
# Called after each stretch.
Tell = Callable[[Underway], None]


def train(target: Target, underway: Underway, key: Key, budget: Budget, tell: Tell) -> Trained:
    """Train until the bound stalls, then let the rate fall to zero."""
    components = shared_components(budget, underway.state.mixture.frames.loc.shape[0])

    def run(state: State, key: Key, rates: Array) -> tuple[State, Array]:
        return stretch(state, target, key, rates, budget.batch, components)

    return train_by(run, underway, key, budget, tell)


def train_by(stretch: Stretch, underway: Underway, key: Key, budget: Budget, tell: Tell) -> Trained:
    """As :func:`train`, with stretches of the caller's own, of one mixture or of stacked ones."""
    while True:
        steady, stalled = _steady_stretches(underway.history, budget)
        index = underway.stretches
        if index == steady + budget.decay_stretches:
            break
        rates = jnp.asarray(_rates(index - steady, budget))
        state, bounds = stretch(underway.state, jax.random.fold_in(key, index), rates)
        means = np.mean(np.asarray(bounds).reshape(-1, STRETCH), axis=0)
        underway = Underway(state, np.concatenate([underway.history, means]))
        tell(underway)
    state, steps = underway.state, len(underway.history)
    count = state.mixture.frames.loc.shape[-2]
    draws = draws_of_each(budget.batch, count) * count * steps * state.lost.size
    lost, skipped = int(np.sum(state.lost)) / draws, int(np.sum(state.skipped))
    return Trained(state.average, underway.history, stalled, lost, skipped)


def _steady_stretches(history: np.ndarray, budget: Budget) -> tuple[int, bool]:
    """After how many stretches the rate begins to fall, and whether for a stall.

    The history alone decides, so that a run that goes on decides as an unbroken one.
    """
    means = [np.mean(part) for part in history.reshape(-1, STRETCH)]
    for index in range(1, min(len(means), budget.steady_stretches)):
        if float(means[index] - means[index - 1]) < budget.tolerance:
            return index + 1, True
    return budget.steady_stretches, False


def _rates(index: int, budget: Budget) -> tuple[float, float]:
    """The rates at both ends of a stretch, by its place after the last steady one."""
    if index < 0:
        return budget.rate, budget.rate
    first, last = (budget.rate * (1 - (index + i) / budget.decay_stretches) for i in (0, 1))
    return first, last
