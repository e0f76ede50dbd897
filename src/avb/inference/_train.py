"""Steps of training by self contrast, in compiled stretches."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32, PyTree

from avb._gradients import stop
from avb._types import Key, Scalar
from avb.densities._points import even_points, shifted_normal
from avb.inference._mixture import ImplicitMixture
from avb.inference._target import Target

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
        components: K, fresh mixing variables a step, of one part.
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

    @property
    def steady_stretches(self) -> int:
        """Stretches at the full rate, at most."""
        return -(-self.max_steps // STRETCH)


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


def draws_of_each(batch: int, count: int) -> int:
    """Draws a part and step, a power of two."""
    return 1 << int(math.log2(max(batch // count, 16)))


def self_contrast_loss(
    mixture: ImplicitMixture, target: Target, key: Key, batch: int, components: int
) -> tuple[Scalar, tuple[Scalar, Int32[Array, ""]]]:
    """−E[log p − log 1/K Σ_{k=1..K} q(z|ε_k)] over a set of ε of which one made z.

    The mixture over a set is a density whose mean over sets is q, and the ELBO is concave in the
    density: so this bounds the ELBO of q from below. Its gradient goes through z and the weights:
    given the set, z is a draw of the mixture over it, so that the density may be held constant
    (Roeder, Wu & Duvenaud 2017). Each part gets as many draws, weighted by its w: so the
    gradient of the weights is exact up to those draws.

    Args:
        mixture: q.
        target: p.
        key: PRNG key.
        batch: Draws over all parts.
        components: K, a power of two.

    Returns:
        The loss, and the bound in nats with the number of draws without finite log p.
    """
    count = mixture.frames.loc.shape[0]
    each = draws_of_each(batch, count)
    key_set, key_own, key_z = jax.random.split(key, 3)
    noise = shifted_normal(jnp.asarray(even_points(components, mixture.noise_dim)), key_set)
    given = jax.vmap(mixture.components)(noise)
    # Points that follow each other fill the space evenly, too.
    first = each * jax.random.randint(key_own, (), 0, components // each)
    own = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, first, each), given)
    keys = jax.random.split(key_z, (each, count))
    z = jax.vmap(mixture.emit_each)(own, keys)
    frozen = stop(mixture)
    white = jax.vmap(jax.vmap(frozen.frames.whiten))(z).reshape(-1, count, mixture.dim)
    log_sum = frozen.log_sum(white, lax.stop_gradient(given)).reshape(each, count)
    log_contrast = log_sum - math.log(components)
    both = jax.vmap(jax.vmap(jax.value_and_grad(target.log_density)))(lax.stop_gradient(z))
    log_p: Array = both[0]
    slope: Array = both[1]
    ok = jnp.isfinite(log_p) & jnp.isfinite(slope).all(axis=-1)
    slope = jnp.where(ok[..., None], slope, 0.0)
    in_frame = jnp.linalg.norm(jnp.einsum("cij,sci->scj", frozen.frames.factor, slope), axis=-1)
    slope = slope * jnp.minimum(1.0, MAX_SLOPE / jnp.maximum(in_frame, 1e-30))[..., None]
    # Linear in z, with the gradient of log p: it was computed once, and checked.
    through_z = jnp.sum(lax.stop_gradient(slope) * (z - lax.stop_gradient(z)), axis=-1)
    gained: Array = log_p + through_z - log_contrast
    gain = jnp.where(ok, gained, 0.0)
    means = jnp.sum(gain, axis=0) / jnp.maximum(jnp.sum(ok, axis=0), 1)
    bound = jnp.sum(jnp.exp(mixture.log_weights) * means)
    return -bound, (lax.stop_gradient(bound), jnp.sum(~ok))


class Step(NamedTuple):
    """What one step is given.

    Attributes:
        key: PRNG key.
        rate: Adam's rate.
        rows: What the step's own target is made of; ``None`` where all steps share one.
    """

    key: Key
    rate: Scalar
    rows: PyTree


def steps(
    state: State,
    over: Step,
    target_of: Callable[[PyTree], Target],
    batch: int,
    components: int,
) -> tuple[State, Float[Array, " n"]]:
    """Steps of training, for which the leaves of ``over`` are stacked; with their bounds."""
    optimiser = _optimiser()
    mask = trained(state.mixture)
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays, given: Step):
        state = eqx.combine(arrays, static)
        target = target_of(given.rows)
        free, fixed = eqx.partition(state.mixture, mask)

        def loss(free):
            mixture = eqx.combine(free, fixed)
            return self_contrast_loss(mixture, target, given.key, batch, components)

        (_, (bound, lost)), gradient = jax.value_and_grad(loss, has_aux=True)(free)
        ok = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradient)]).all()
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, free)
        moved = jax.tree.map(lambda p, u: p - given.rate * u, free, updates)
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

    arrays, bounds = lax.scan(step, arrays, over)
    return eqx.combine(arrays, static), bounds


def rates_between(ends: Float[Array, "2"]) -> Float[Array, " n"]:
    """The rates of a stretch, from the first to the second along a cosine."""
    wave = 0.5 * (1.0 - jnp.cos(jnp.pi * jnp.arange(STRETCH) / STRETCH))
    return ends[0] + (ends[1] - ends[0]) * wave


@eqx.filter_jit
def stretch(
    state: State, target: Target, key: Key, rates: Float[Array, "2"], batch: int, components: int
) -> tuple[State, Float[Array, " n"]]:
    """``STRETCH`` steps, the rate going from the first to the second along a cosine."""
    over = Step(jax.random.split(key, STRETCH), rates_between(rates), None)
    return steps(state, over, lambda _: target, batch, components)


def shared_components(budget: Budget, count: int) -> int:
    """K of one step: parts share the cost, but a bound from too few would itself bend them."""
    fewest = draws_of_each(budget.batch, count)
    return max(1 << math.ceil(math.log2(budget.components / math.sqrt(count))), fewest, 32)
