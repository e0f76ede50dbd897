"""The best posterior that a family holds for one datum, and draws of its ELBO."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from avb._gradients import stop
from avb._types import Datum, Features, Key, Scalar
from avb.contrasts._self import mixture
from avb.evaluation._bracket import draw_with_bounds
from avb.models import LatentVariableModel
from avb.posteriors import (
    AbstractPosterior,
    AbstractTractablePosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    SemiImplicitPosterior,
)

SEARCH_DRAWS = 8
SEARCH_COMPONENTS = 32
CHOICE_DRAWS = 64

Local = tuple[AbstractPosterior, Features]
Shift = Float[Array, " s"]


def _has_linear_head(posterior: AbstractPosterior) -> bool:
    known = (GaussianPosterior, FullGaussianPosterior, FlowPosterior, SemiImplicitPosterior)
    return isinstance(posterior, known)


def _bias(posterior) -> Float[Array, " s"]:
    head = posterior.head
    return (head.linear if isinstance(posterior, FlowPosterior) else head).bias


def shifted(local: Local, shift: Shift) -> Local:
    """The posterior of one datum, given with its features, moved within its family.

    The shift is added to what the first layer after the encoder makes of the features: the
    location and scale of a Gaussian, to which a flow or a mixing network adds its condition.
    Features alone would not do: with fewer of them than such numbers they reach only a part
    of the family. Where no such layer is known the shift is added to the features.
    """
    posterior, features = local
    if not _has_linear_head(posterior):
        return posterior, features + shift
    return eqx.tree_at(_bias, posterior, _bias(posterior) + shift), features


def elbo_draws(
    model: LatentVariableModel, local: Local, x: Datum, key: Key, count: int, components: int
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """Draws whose expectations bound the ELBO of one datum from below and from above.

    The same key gives the same noise to every posterior of one class.

    Returns:
        Both in nats, shape ``(count,)``; the same numbers where q has a density.
    """
    posterior, features = local
    if isinstance(posterior, AbstractTractablePosterior):
        density = posterior.density(features)
        z = jax.vmap(density.sample)(jax.random.split(key, count))
        below = above = jax.vmap(density.log_prob)(z)
    else:
        assert isinstance(posterior, SemiImplicitPosterior)
        z, below, above = draw_with_bounds(
            posterior, features, key, draws=count, components=components
        )
    log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
    return log_joint - above, log_joint - below


def _climbed(model: LatentVariableModel, local: Local, x: Datum, key: Key, draws: int) -> Scalar:
    """An unbiased estimate of what the search climbs, and of its gradient, which is through z.

    It is the ELBO where q has a density, else the semi-implicit lower bound, both as in
    training (Roeder, Wu & Duvenaud 2017, https://arxiv.org/abs/1703.09194).
    """
    posterior, features = local
    frozen, constant = stop(local)
    if isinstance(posterior, AbstractTractablePosterior):
        z = jax.vmap(posterior.density(features).sample)(jax.random.split(key, draws))
        log_q = jax.vmap(frozen.density(constant).log_prob)(z)
    else:
        assert isinstance(posterior, SemiImplicitPosterior)
        key_own, key_shared, key_z = jax.random.split(key, 3)
        own = jax.random.normal(key_own, (draws, posterior.noise_dim))
        shared = jax.random.normal(key_shared, (SEARCH_COMPONENTS, posterior.noise_dim))
        conditionals = posterior.components(features, own)
        z = jax.vmap(lambda q, key: q.sample(key))(conditionals, jax.random.split(key_z, draws))

        def log_mixture(own, z):
            noise = jnp.concatenate([own[None, :], shared])
            return mixture(frozen, constant, noise).log_prob(z)

        log_q = jax.vmap(log_mixture)(own, z)
    return jnp.mean(jax.vmap(model.log_joint, in_axes=(None, 0))(x, z) - log_q)


def best_shift(
    model: LatentVariableModel, local: Local, x: Datum, key: Key, steps: Scalar, rate: Scalar
) -> Shift:
    """Where Adam leads from the encoder's posterior; zero where that is no improvement.

    The latter is found on draws of its own, so that those which report the improvement
    have no part in the choice. The rate falls to zero along a cosine.
    """
    posterior, features = local
    start = jnp.zeros_like(_bias(posterior) if _has_linear_head(posterior) else features)
    adam = optax.scale_by_adam()
    key_steps, key_choice = jax.random.split(key)

    def climbed(shift: Shift, key: Key, draws: int) -> Scalar:
        return _climbed(model, shifted(local, shift), x, key, draws)

    def step(index: Scalar, carry):
        shift, state = carry
        key = jax.random.fold_in(key_steps, index)
        uphill, state = adam.update(jax.grad(climbed)(shift, key, SEARCH_DRAWS), state)
        size = 0.5 * rate * (1.0 + jnp.cos(jnp.pi * index / steps))
        return shift + size * jnp.asarray(uphill), state

    found, _ = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))
    improved = climbed(found, key_choice, CHOICE_DRAWS) > climbed(start, key_choice, CHOICE_DRAWS)
    return jax.lax.select(improved, found, start)
