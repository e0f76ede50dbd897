"""Rounds of training, each finer than the one before, until the posterior's numbers are good."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from avb._types import Key
from avb.inference._journal import TRAINING, Journal
from avb.inference._measure import Bracket, Importance, measure
from avb.inference._mixture import ImplicitMixture
from avb.inference._npz import from_arrays, to_arrays
from avb.inference._stretches import Tell, Trained, Underway, train
from avb.inference._target import Target
from avb.inference._train import STRETCH, Budget

MAX_ROUNDS = 3
# Divergence from the target, in nats, that is worth no further round.
CLOSE = 0.004

# From the start, a key, the budget and what to tell after each stretch to what a round gave.
TrainOne = Callable[[Underway, Key, Budget, Tell], Trained]


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a run is between two stretches.

    Attributes:
        index: The round.
        past: The bound of each step of the rounds before, in nats.
        lost: Steps of the rounds before, times the share of draws lost in each.
        skipped: Steps skipped in the rounds before.
        underway: The present round.
    """

    index: int
    past: np.ndarray
    lost: float
    skipped: int
    underway: Underway

    @classmethod
    def begin(cls, mixture: ImplicitMixture) -> "Point":
        """Before the first round."""
        underway = Underway.begin(mixture)
        return cls(0, underway.history, 0.0, 0, underway)

    def after(self, one: Trained) -> "Point":
        """Before the next round."""
        return Point(
            self.index + 1,
            np.concatenate([self.past, one.history]),
            self.lost + one.lost * len(one.history),
            self.skipped + one.skipped,
            Underway.begin(one.mixture),
        )

    @property
    def stretches(self) -> int:
        """Stretches done in all rounds."""
        return len(self.past) // STRETCH + self.underway.stretches

    def keep(self, journal: Journal) -> None:
        """Write it down."""
        if journal.folder is None:
            return
        numbers = {name: np.asarray(getattr(self, name)) for name in ("index", "lost", "skipped")}
        histories = {"past": self.past, "history": self.underway.history}
        journal.save(TRAINING, numbers | histories | to_arrays(self.underway.state))

    def or_kept(self, journal: Journal) -> "Point":
        """The one that was written down last, of a run that began at this one."""
        kept = journal.load(TRAINING)
        if kept is None:
            return self
        underway = Underway(from_arrays(kept, self.underway.state), kept["history"])
        lost, skipped = float(kept["lost"]), int(kept["skipped"])
        return Point(int(kept["index"]), kept["past"], lost, skipped, underway)


@dataclasses.dataclass(frozen=True)
class Refined:
    """The last round's posterior.

    Attributes:
        trained: Of all rounds together; its mixture is the last one's.
        bounds: Bracket of its ELBO.
        weights: Its importance weights.
    """

    trained: Trained
    bounds: Bracket
    weights: Importance


def budget_of(index: int, max_steps: int) -> Budget:
    """The budget of one round: twice the components and half the rate of the round before."""
    first = Budget()
    return Budget(
        components=first.components * 2**index,
        rate=first.rate / 2**index,
        max_steps=max_steps,
        decay_stretches=first.decay_stretches * (index + 1),
    )


def is_close(bounds: Bracket, weights: Importance) -> bool:
    """Whether log evidence and ELBO, from the same draws, leave nothing to train for."""
    return weights.trusted and weights.log_evidence - bounds.lower <= CLOSE


def refine(
    target: Target,
    mixture: ImplicitMixture,
    key: Key,
    max_steps: int,
    journal: Journal,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Train and measure, again with more components where the posterior is not close yet.

    Args:
        target: p.
        mixture: The start.
        key: PRNG key.
        max_steps: Steps of a round after which to give up on a bound that still rises.
        journal: Where to go on, and to write down how far it is.
        progress: Called with the stretches done and those at most.
    """
    return refine_by(
        lambda underway, key, budget, tell: train(target, underway, key, budget, tell),
        lambda mixture, key: measure(mixture, target, key),
        mixture,
        key,
        max_steps,
        journal,
        progress,
    )


def refine_by(
    train_one: TrainOne,
    measure_one: Callable[[ImplicitMixture, Key], tuple[Bracket, Importance]],
    mixture: ImplicitMixture,
    key: Key,
    max_steps: int,
    journal: Journal,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """As :func:`refine`, with training and measures of the caller's own.

    Args:
        train_one: One round of training.
        measure_one: Bracket and importance weights of its mixture.
        mixture: The start.
        key: PRNG key.
        max_steps: Steps of a round after which to give up on a bound that still rises.
        journal: Where to go on, and to write down how far it is.
        progress: Called with the stretches done and those at most.
    """
    budgets = [budget_of(index, max_steps) for index in range(MAX_ROUNDS)]
    most = sum(budget.steady_stretches + budget.decay_stretches for budget in budgets)
    point = Point.begin(mixture).or_kept(journal)
    while True:
        key_train, key_measure = jax.random.split(jax.random.fold_in(key, point.index))

        def tell(underway: Underway, point: Point = point) -> None:
            here = dataclasses.replace(point, underway=underway)
            here.keep(journal)
            if progress is not None:
                progress(here.stretches, most)

        one = train_one(point.underway, key_train, budgets[point.index], tell)
        bounds, weights = measure_one(one.mixture, key_measure)
        point = point.after(one)
        close = is_close(bounds, weights)
        if close or point.index == MAX_ROUNDS:
            break
    lost = point.lost / len(point.past)
    # A bound as high as the log evidence has nowhere to rise to.
    stalled = one.stalled or close
    trained = Trained(one.mixture, point.past, stalled, lost, point.skipped)
    return Refined(trained, bounds, weights)
