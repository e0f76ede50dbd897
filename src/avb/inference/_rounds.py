"""Rounds of training, each finer than the one before, until the posterior's numbers are good."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from avb._types import Key
from avb.inference._measure import Bracket, Importance, measure
from avb.inference._mixture import ImplicitMixture
from avb.inference._target import Target
from avb.inference._train import STRETCH, Budget, Trained, train

MAX_ROUNDS = 3
# Divergence from the target, in nats, that is worth no further round.
CLOSE = 0.004

# From the start, a key, the budget and what to tell of progress to what a round gave.
TrainOne = Callable[[ImplicitMixture, Key, Budget, Callable[[int, int], None]], Trained]


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
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Train and measure, again with more components where the posterior is not close yet.

    Args:
        target: p.
        mixture: The start.
        key: PRNG key.
        max_steps: Steps of a round after which to give up on a bound that still rises.
        progress: Called with the stretches done and those at most.
    """
    return refine_by(
        lambda mixture, key, budget, tell: train(target, mixture, key, budget, tell),
        lambda mixture, key: measure(mixture, target, key),
        mixture,
        key,
        max_steps,
        progress,
    )


def refine_by(
    train_one: TrainOne,
    measure_one: Callable[[ImplicitMixture, Key], tuple[Bracket, Importance]],
    mixture: ImplicitMixture,
    key: Key,
    max_steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """As :func:`refine`, with training and measures of the caller's own.

    Args:
        train_one: One round of training.
        measure_one: Bracket and importance weights of its mixture.
        mixture: The start.
        key: PRNG key.
        max_steps: Steps of a round after which to give up on a bound that still rises.
        progress: Called with the stretches done and those at most.
    """
    budgets = [budget_of(index, max_steps) for index in range(MAX_ROUNDS)]
    most = sum(-(-b.max_steps // STRETCH) + b.decay_stretches for b in budgets)
    found, history, draws, lost, skipped = None, [], 0, 0.0, 0
    for index, budget in enumerate(budgets):
        key_train, key_measure = jax.random.split(jax.random.fold_in(key, index))
        before = sum(len(part) for part in history) // STRETCH

        def tell(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, most)

        one = train_one(mixture, key_train, budget, tell)
        mixture = one.mixture
        history.append(one.history)
        lost, draws = lost + one.lost * len(one.history), draws + len(one.history)
        skipped += one.skipped
        found = one.stalled, *measure_one(mixture, key_measure)
        if is_close(*found[1:]):
            break
    assert found is not None
    stalled, bounds, weights = found
    trained = Trained(mixture, np.concatenate(history), stalled, lost / draws, skipped)
    return Refined(trained, bounds, weights)
