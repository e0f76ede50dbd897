"""A number of critic steps a model step that a held-out loss decides, report by report."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import avb
from avb import FitConfig, FitResult, Method
from avb._types import Key, Scalar
from avb.training import DeviceData, Outcome, Progress, State
from avb.training._contest import adversary_loss, contest
from avb.training._draws import drawn
from avb.training._state import optimisers, players, with_players
from avb.training._step import _critic_step

MOST_STEPS = 8
TRIAL_STEPS = 100
WORTHWHILE = 0.01


def fit_driven(
    method: Method,
    data: np.ndarray,
    held_out: np.ndarray,
    *,
    config: FitConfig,
    key: Key,
    on_progress: Callable[[Progress], None],
) -> FitResult:
    """As ``avb.fit``, but at each report the number of critic steps is chosen anew.

    Contrast and critic are trained alone for ``TRIAL_STEPS`` steps, which are then forgotten.
    Where these lower their loss on held-out data by more than ``WORTHWHILE`` nats, the critic
    lags, and the number doubles, to at most ``MOST_STEPS``; else it halves.

    Args:
        method: As for ``avb.fit``.
        data: Pixels, which are binarised anew at each use.
        held_out: Binarised data on which the loss is measured.
        config: Settings; ``critic_steps`` is the first number.
        key: As for ``avb.fit``.
        on_progress: As for ``avb.fit``; it stops nothing.
    """
    device_data = DeviceData(data, "binarise", config.batch_size)
    others = jnp.asarray(held_out)
    state, history = None, []

    def until_report(progress: Progress) -> bool:
        on_progress(progress)
        return progress.metrics is not None

    while True:
        result = avb.fit(
            method, data, config=config, key=key, init_state=state, on_progress=until_report
        )
        state = result.state
        history += result.history
        if result.outcome is not Outcome.STOPPED:
            return dataclasses.replace(result, history=history)
        fall = float(_fall(state, device_data, config, others))
        print(
            f"epoch {history[-1]['epoch']:.0f}: {config.critic_steps} steps, fall {fall:.3f}",
            flush=True,
        )
        config = dataclasses.replace(config, critic_steps=_next(config.critic_steps, fall))


def _next(steps: int, fall: float) -> int:
    return min(2 * steps, MOST_STEPS) if fall > WORTHWHILE else max(steps // 2, 1)


@eqx.filter_jit
def _fall(state: State, data: DeviceData, config: FitConfig, held_out: jax.Array) -> Scalar:
    """By how much steps of contrast and critic alone lower their loss on held-out data."""
    _, optimiser = optimisers(config, config.epochs * data.steps_per_epoch)
    model, adversary = players(state.method)

    def loss(adversary) -> Scalar:
        method = with_players(state.method, model, adversary)
        features = jax.vmap(method.posterior.encoder)(held_out)
        key_z, key_contest = jax.random.split(jax.random.key(0))
        z = drawn(method, features, key_z)
        return adversary_loss(method, contest(method, held_out, features, z, key_contest))[0]

    def one(carried, number):
        adversary, optimiser_state = carried
        key_data, key_step = jax.random.split(jax.random.fold_in(state.key, number))
        x = data.batch(state.order, number % data.steps_per_epoch, key_data)
        method = with_players(state.method, model, adversary)
        method, optimiser_state = _critic_step(
            method, optimiser_state, optimiser, x, key_step, config
        )
        return (players(method)[1], optimiser_state), None

    first = (adversary, state.adversary_optimiser)
    (trained, _), _ = lax.scan(one, first, jnp.arange(TRIAL_STEPS))
    return loss(adversary) - loss(trained)
