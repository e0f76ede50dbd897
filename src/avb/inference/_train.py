"""Training of the mixture by self contrast, in compiled stretches of steps."""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int32, PyTree

from avb._types import Key, Scalar
from avb.inference._mixture import ImplicitMixture
from avb.inference._target import Target
from avb.training._losses import stop

STRETCH = 500
CLIP_NORM = 10.0
# Slopes of log p in a frame's units: larger ones come from single draws far outside.
MAX_SLOPE = 1e3
EMA_DECAY = 0.995


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long and how finely to train.

    Attributes:
        batch: Draws a step, over all parts.
        components: K, fresh mixing variables a step.
        rate: Adam's rate until the stall.
        max_steps: Steps at that rate, at most; rounded up to whole stretches.
        decay_stretches: Stretches over which the rate then falls to zero.
        tolerance: A stretch that gains less than this, in nats, is a stall.
    """

    batch: int = 128
    components: int = 128
    rate: float = 3e-3
    max_steps: int = 6000
    decay_stretches: int = 2
    tolerance: float = 0.002


class State(eqx.Module):
    """What training carries from step to step.

    Attributes:
        mixture: The parameters.
        average: Their exponential average, which is what one uses.
        optimiser: Adam's state.
        lost: Draws so far at which log p or its gradient was not finite.
        skipped: Steps so far whose gradient was not finite.
    """

    mixture: ImplicitMixture
    average: ImplicitMixture
    optimiser: PyTree
    lost: Int32[Array, ""]
    skipped: Int32[Array, ""]


def _optimiser() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.scale_by_adam(b2=0.99))


def trained(mixture: ImplicitMixture) -> ImplicitMixture:
    """A mask: ``True`` at the arrays that training changes."""
    mask = jax.tree.map(eqx.is_inexact_array, mixture)
    return eqx.tree_at(
        lambda m: m.frames, mask, replace_fn=lambda f: jax.tree.map(lambda _: False, f)
    )


def start(mixture: ImplicitMixture) -> State:
    """The state before the first step."""
    free = eqx.filter(mixture, trained(mixture))
    zero = jnp.zeros((), jnp.int32)
    return State(mixture, mixture, _optimiser().init(free), zero, zero)


def self_contrast_loss(
    mixture: ImplicitMixture, target: Target, key: Key, batch: int, components: int
) -> tuple[Scalar, tuple[Scalar, Int32[Array, ""]]]:
    """−E[log p − log 1/(K+1) Σ_{k=0..K} q(z|ε_k)], its gradient through z and the weights.

    Each part gets as many draws, weighted by its w: so the gradient of the weights is exact up
    to those draws. The K fresh ε are shared by all draws. Given the set of ε, z is a draw of the
    mixture over it, so that the density may be held constant (Roeder, Wu & Duvenaud 2017).

    Returns:
        The loss, and the bound in nats with the number of draws without finite log p.
    """
    count = mixture.frames.loc.shape[0]
    each = max(batch // count, 16)
    key_own, key_shared, key_z = jax.random.split(key, 3)
    own = jax.random.normal(key_own, (each, mixture.noise_dim))
    shared = jax.random.normal(key_shared, (components, mixture.noise_dim))
    given_own = jax.vmap(mixture.components)(own)
    keys = jax.random.split(key_z, (each, count))
    parts = jnp.arange(count)
    z = jax.vmap(lambda given, keys: jax.vmap(lambda c, k: mixture.emit(given, c, k))(parts, keys))(
        given_own, keys
    )
    frozen = stop(mixture)
    given_shared = jax.vmap(frozen.components)(shared)

    def log_q(z, given):
        white = jax.vmap(frozen.frames.whiten)(z)
        fresh = frozen.log_sum(white, given_shared)
        mine = jax.vmap(lambda w: frozen.log_given(w, given))(white)
        return jnp.logaddexp(fresh, mine) - math.log(components + 1.0)

    log_contrast = jax.vmap(log_q)(z, lax.stop_gradient(given_own))
    log_p, slope = jax.vmap(jax.vmap(jax.value_and_grad(target.log_density)))(lax.stop_gradient(z))
    ok = jnp.isfinite(log_p) & jnp.isfinite(slope).all(axis=-1)
    slope = jnp.where(ok[..., None], slope, 0.0)
    in_frame = jnp.linalg.norm(jnp.einsum("cij,sci->scj", frozen.frames.factor, slope), axis=-1)
    slope = slope * jnp.minimum(1.0, MAX_SLOPE / jnp.maximum(in_frame, 1e-30))[..., None]
    # Linear in z, with the gradient of log p: it was computed once, and checked.
    through_z = jnp.sum(lax.stop_gradient(slope) * (z - lax.stop_gradient(z)), axis=-1)
    gain = jnp.where(ok, log_p + through_z - log_contrast, 0.0)
    means = jnp.sum(gain, axis=0) / jnp.maximum(jnp.sum(ok, axis=0), 1)
    bound = jnp.sum(jnp.exp(mixture.log_weights) * means)
    return -bound, (lax.stop_gradient(bound), jnp.sum(~ok))


@eqx.filter_jit
def stretch(
    state: State, target: Target, key: Key, rates: Float[Array, "2"], batch: int, components: int
) -> tuple[State, Float[Array, " n"]]:
    """``STRETCH`` steps, the rate going from the first to the second along a cosine."""
    optimiser = _optimiser()
    mask = trained(state.mixture)
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays, index_and_key):
        state = eqx.combine(arrays, static)
        index, key = index_and_key
        free, fixed = eqx.partition(state.mixture, mask)

        def loss(free):
            mixture = eqx.combine(free, fixed)
            return self_contrast_loss(mixture, target, key, batch, components)

        (_, (bound, lost)), gradient = jax.value_and_grad(loss, has_aux=True)(free)
        ok = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradient)]).all()
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, free)
        wave = 0.5 * (1.0 - jnp.cos(jnp.pi * index / STRETCH))
        rate = rates[0] + (rates[1] - rates[0]) * wave
        moved = jax.tree.map(lambda p, u: p - rate * u, free, updates)
        new, optimiser_state = jax.tree.map(
            lambda a, b: jnp.where(ok, a, b), (moved, optimiser_state), (free, state.optimiser)
        )
        mixture = eqx.combine(new, fixed)
        average = jax.tree.map(
            lambda a, b: EMA_DECAY * a + (1.0 - EMA_DECAY) * b if eqx.is_inexact_array(a) else a,
            state.average,
            mixture,
        )
        advanced = State(mixture, average, optimiser_state, state.lost + lost, state.skipped + ~ok)
        return eqx.filter(advanced, eqx.is_array), bound

    over = (jnp.arange(STRETCH), jax.random.split(key, STRETCH))
    arrays, bounds = lax.scan(step, arrays, over)
    return eqx.combine(arrays, static), bounds


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


def train(
    target: Target,
    mixture: ImplicitMixture,
    key: Key,
    budget: Budget,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train until the bound stalls, then let the rate fall to zero."""
    count = mixture.frames.loc.shape[0]
    # Parts share the cost, but a bound from too few components would itself bend them.
    components = max(int(budget.components / math.sqrt(count)), 32)
    state, history, stalled = start(mixture), [], False
    steady = -(-budget.max_steps // STRETCH)
    most = steady + budget.decay_stretches

    def run(index: int, rates: tuple[float, float]) -> None:
        nonlocal state
        state, bounds = stretch(
            state,
            target,
            jax.random.fold_in(key, index),
            jnp.asarray(rates),
            budget.batch,
            components,
        )
        history.append(np.asarray(bounds))
        if progress is not None:
            progress(index + 1, most)

    for index in range(steady):
        run(index, (budget.rate, budget.rate))
        if index > 0 and _gain(history) < budget.tolerance:
            stalled = True
            break
    done = len(history)
    for index in range(budget.decay_stretches):
        ends = [budget.rate * (1 - (index + i) / budget.decay_stretches) for i in (0, 1)]
        run(done + index, (ends[0], ends[1]))
    bounds = np.concatenate(history)
    each = max(budget.batch // count, 16) * count
    return Trained(
        state.average, bounds, stalled, int(state.lost) / (each * len(bounds)), int(state.skipped)
    )


def _gain(history: list[np.ndarray]) -> float:
    """How much the bound rose from one stretch to the next, in nats."""
    return float(np.mean(history[-1]) - np.mean(history[-2]))
