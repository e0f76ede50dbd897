"""Several trainings from the same Gaussian fits in one compiled program, and what they agree on."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key
from avb.densities._points import even_points, shifted_normal
from avb.inference._journal import Journal
from avb.inference._measure import AT_ONCE, measure
from avb.inference._mixture import Frames, ImplicitMixture, log_mean, start_mixture
from avb.inference._modes import best_weights
from avb.inference._rounds import Refined, refine_by
from avb.inference._stretches import Tell, Trained, Underway, train_by
from avb.inference._target import Target
from avb.inference._train import (
    STRETCH,
    Budget,
    State,
    Step,
    rates_between,
    shared_components,
    steps,
)

STACK_DRAWS = 512
# As many draws a side in the classifier's test, and twice as many for its reference.
COMPARED_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How alike the posteriors of several trainings are.

    The trainings share the Gaussian fits: what no fit has found, all of them miss alike.

    Attributes:
        weights: Weight of each in the posterior, which is all of them together.
        elbos: Lower bound of the ELBO of each, in nats.
        rhat: Largest rank-normalised R̂ of a coordinate, trainings in the place of chains.
        c2st: Largest accuracy of a classifier that tells one from the next; 0.5 is agreement.
    """

    weights: tuple[float, ...]
    elbos: tuple[float, ...]
    rhat: float
    c2st: float

    def __str__(self) -> str:
        return (
            f"{len(self.weights)} restarts of weights "
            + ", ".join(f"{w:.3f}" for w in self.weights)
            + f": R-hat {self.rhat:.3f}, C2ST {self.c2st:.3f}"
        )


def start_mixtures(
    frames: Frames, log_weights: Float[Array, " c"], key: Key, count: int
) -> ImplicitMixture:
    """Untrained mixtures, stacked along the first axis of every array."""
    keys = jax.random.split(key, count)
    return eqx.filter_vmap(lambda key: start_mixture(frames, log_weights, key))(keys)


def one_of(mixtures: ImplicitMixture, index: int) -> ImplicitMixture:
    """One of stacked mixtures."""
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, mixtures)


@eqx.filter_jit
def _stretch(
    state: State,
    target: Target,
    keys: Key,
    rates: Float[Array, "2"],
    batch: int,
    components: int,
) -> tuple[State, Float[Array, "r n"]]:
    def one(state: State, key: Key):
        over = Step(jax.random.split(key, STRETCH), rates_between(rates), None)
        return steps(state, over, lambda _: target, batch, components)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(state, keys)


def train_all(target: Target, underway: Underway, key: Key, budget: Budget, tell: Tell) -> Trained:
    """Train stacked mixtures side by side, as long as their mean bound rises."""
    count, parts = underway.state.mixture.logits.shape
    components = shared_components(budget, parts)

    def run(state: State, key: Key, rates: Array) -> tuple[State, Array]:
        keys = jax.random.split(key, count)
        return _stretch(state, target, keys, rates, budget.batch, components)

    return train_by(run, underway, key, budget, tell)


@eqx.filter_jit
def _log_weights(mixtures: ImplicitMixture, target: Target, key: Key) -> Float[Array, " r"]:
    count = mixtures.logits.shape[0]
    each = [one_of(mixtures, index) for index in range(count)]
    key_draw, key_set = jax.random.split(key)
    keys = jax.random.split(key_draw, (count, STACK_DRAWS))
    z = jnp.stack([jax.vmap(one.sample)(k) for one, k in zip(each, keys, strict=True)])
    points = jnp.asarray(even_points(STACK_DRAWS, each[0].noise_dim))
    noise = shifted_normal(points, key_set)
    flat = z.reshape(-1, z.shape[-1])
    logs = jnp.stack([log_mean(one, flat, noise, AT_ONCE) for one in each], axis=-1)
    log_p = jax.vmap(target.log_density)(flat)
    return best_weights(logs.reshape(count, STACK_DRAWS, count), log_p.reshape(count, STACK_DRAWS))


def stack(mixtures: ImplicitMixture, target: Target, key: Key) -> ImplicitMixture:
    """All of stacked mixtures as one, each with the weight that is best for the whole's ELBO.

    A mixture of mixtures that share their ε is one with the parts of all.

    References:
        Yao et al. (2018), https://arxiv.org/abs/1704.02030, who stack by predictive scores.
    """
    log_weights = _log_weights(mixtures, target, key)[:, None]
    logits = log_weights + jax.nn.log_softmax(mixtures.logits, axis=-1)
    stacked = eqx.tree_at(lambda m: m.logits, mixtures, logits)
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]) if eqx.is_array(leaf) else leaf, stacked
    )


def refine_all(
    target: Target,
    mixtures: ImplicitMixture,
    key: Key,
    max_steps: int,
    journal: Journal,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Refined, Agreement]:
    """Rounds of training of stacked mixtures, judged by all of them together.

    Args:
        target: p.
        mixtures: The starts.
        key: PRNG key.
        max_steps: Steps of a round after which to give up on a bound that still rises.
        journal: Where to go on, and to write down how far it is.
        progress: Called with the stretches done and those at most.

    Returns:
        The posterior that they are together, and how far they agree.
    """
    key_rounds, key_stack, key_agree = jax.random.split(key, 3)
    refined = refine_by(
        lambda underway, key, budget, tell: train_all(target, underway, key, budget, tell),
        lambda mixtures, key: measure(stack(mixtures, target, key_stack), target, key),
        mixtures,
        key_rounds,
        max_steps,
        journal,
        progress,
    )
    separate = refined.trained.mixture
    whole = stack(separate, target, key_stack)
    trained = dataclasses.replace(refined.trained, mixture=whole)
    agreement = agree(separate, whole, target, key_agree)
    return dataclasses.replace(refined, trained=trained), agreement


def agree(mixtures: ImplicitMixture, whole: ImplicitMixture, target: Target, key: Key) -> Agreement:
    """Compare the trainings with each other.

    Args:
        mixtures: Stacked.
        whole: What :func:`stack` made of them.
        target: p.
        key: PRNG key.
    """
    from arviz_stats.base.array import array_stats

    from avb.diagnostics import c2st

    count, parts = mixtures.logits.shape
    key_draw, key_test, key_measure = jax.random.split(key, 3)
    keys = jax.random.split(key_draw, (count, 2 * COMPARED_DRAWS))
    each = [one_of(mixtures, index) for index in range(count)]
    draw = eqx.filter_jit(lambda one, keys: jax.vmap(one.sample)(keys))
    z = np.stack([np.asarray(draw(o, k), np.float64) for o, k in zip(each, keys, strict=True)])
    rhats = [
        array_stats.rhat(z[:, :, index], chain_axis=0, draw_axis=1) for index in range(z.shape[2])
    ]
    tests = [
        c2st(
            z[index][:COMPARED_DRAWS],
            z[(index + 1) % count],
            key=jax.random.fold_in(key_test, index),
            repetitions=3,
        ).accuracy
        for index in range(count if count > 2 else 1)
    ]
    elbos = [measure(one, target, key_measure)[0].lower for one in each]
    shares = np.exp(np.asarray(whole.log_weights, np.float64)).reshape(count, parts).sum(axis=1)
    return Agreement(
        tuple(shares.tolist()), tuple(elbos), float(np.max(rhats)), float(np.max(tests))
    )
