"""Adam on a loss of fresh draws, in one compiled loop."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from avb._types import Key, Scalar

Parameters = TypeVar("Parameters")


def descend(
    loss: Callable[[Parameters, Key], Scalar],
    parameters: Parameters,
    key: Key,
    *,
    steps: int,
    rate: float,
    averaged: float = 0.0,
) -> Parameters:
    """Where Adam ends on a loss whose draws are new at every step.

    Args:
        loss: From parameters and a key.
        parameters: Where to start; a tree of floating-point arrays.
        key: PRNG key, split into one a step.
        steps: Steps of Adam.
        rate: Peak rate; it falls to zero along a cosine.
        averaged: Share of the steps, at the end, whose parameters are averaged; 0 for
            those after the last step.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))
    kept = int(averaged * steps)

    def step(carry, index_and_key):
        parameters, state, average = carry
        index, key = index_and_key
        updates, state = optimiser.update(jax.grad(loss)(parameters, key), state)
        parameters = optax.apply_updates(parameters, updates)
        if kept:
            share = jnp.where(index >= steps - kept, 1.0 / kept, 0.0)
            average = jax.tree.map(lambda a, p: a + share * p, average, parameters)
        return (parameters, state, average), None

    nothing = jax.tree.map(jnp.zeros_like, parameters) if kept else None
    start: Any = (parameters, optimiser.init(cast(Any, parameters)), nothing)
    over = (jnp.arange(steps), jax.random.split(key, steps))
    (last, _, average), _ = lax.scan(step, start, over)
    return cast(Parameters, average if kept else last)
