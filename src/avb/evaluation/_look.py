"""What a critic says at draws of q and of r, beside what it should say."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from avb._method import Method
from avb._types import Datum, Key
from avb.evaluation._critic import CriticDensity, critic_density
from avb.evaluation._draws import mean_and_error
from avb.evaluation._fresh_training import Arena
from avb.evaluation._reference import Reference
from avb.evaluation._verdict import capped_excess


class Look(NamedTuple):
    """What was seen at draws of each datum; leading axes (data, draws).

    Attributes:
        ratio: Log q − log r by the reference, at draws of q.
        value: The critic's T there.
        refitted: T of the critic that was trained on.
        gain: What a Gaussian with the moments of q would add to log r there.
        ratio_on_r: Log q − log r by the reference, at draws of r.
        value_on_r: The critic's T there.
        refitted_on_r: T of the critic that was trained on.
        excess: E_r[exp T] − 1 of each datum, and its error.
        excess_refitted: The same of the critic that was trained on.
        score: E_q|∇_z log q|², in coordinates that whiten q.
        slope: E_q|∇_z (T − T*)|² there, T* by the reference.
        slope_refitted: The same, T* by the critic that was trained on.
    """

    ratio: Any
    value: Any
    refitted: Any
    gain: Any
    ratio_on_r: Any
    value_on_r: Any
    refitted_on_r: Any
    excess: tuple[Any, Any]
    excess_refitted: tuple[Any, Any]
    score: Any
    slope: Any
    slope_refitted: Any


class Setting(NamedTuple):
    """The method, the same with its critic trained on, and what both are compared with."""

    method: Method
    refitted: Method
    reference: Reference
    arena: Arena


@eqx.filter_jit
def look(setting: Setting, draws: int, cap, x, index, keys) -> Look:
    """Look at a batch of data; ``index`` says where each stands in the arena."""
    method, refitted, reference, arena = setting
    critic = refitted.critic
    assert critic is not None

    def datum(x: Datum, index, key: Key) -> Look:
        key_condition, key_z, key_r, key_weights = jax.random.split(key, 4)
        corner = arena.at(index)
        now = critic_density(method, x, corner.features, key_condition, jnp.zeros(()))
        seen = critic.features(x, corner.features)
        later = CriticDensity(now.contrast, critic, seen, jnp.zeros(()))
        view = reference.view(index, corner.features, key_z, draws)
        on_r = jax.vmap(now.contrast.sample)(jax.random.split(key_r, draws * method.contrast_draws))
        log_r, log_r_there = (jax.vmap(now.contrast.log_prob)(z) for z in (view.z, on_r))
        scale = corner.contrast.scale_tril
        score = jax.vmap(jax.grad(view.at_draw))(view.z, view.origin) @ scale
        score_now, score_later = (
            jax.vmap(jax.grad(density.log_prob))(view.z) @ scale for density in (now, later)
        )
        square = lambda error: jnp.mean(jnp.sum(error**2, axis=1))  # noqa: E731
        return Look(
            ratio=jax.vmap(view.at_draw)(view.z, view.origin) - log_r,
            value=jax.vmap(now.value)(view.z),
            refitted=jax.vmap(later.value)(view.z),
            gain=jax.vmap(corner.contrast.log_prob)(view.z) - log_r,
            ratio_on_r=jax.vmap(view.elsewhere)(on_r) - log_r_there,
            value_on_r=jax.vmap(now.value)(on_r),
            refitted_on_r=jax.vmap(later.value)(on_r),
            excess=mean_and_error(capped_excess(now, corner, key_weights, 4 * draws, cap)),
            excess_refitted=mean_and_error(
                capped_excess(later, corner, key_weights, 4 * draws, cap)
            ),
            score=square(score),
            slope=square(score_now - score),
            slope_refitted=square(score_now - score_later),
        )

    return jax.vmap(datum)(x, index, keys)
