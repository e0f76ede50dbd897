"""What critic and contrast learn from: values at draws of the posterior and of the contrast."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from avb._gradients import stop
from avb._method import Method
from avb._types import Data, Key, Scalar
from avb.contrasts import AbstractContrast
from avb.posteriors import AbstractPosterior
from avb.training._draws import repeated


class Contest(eqx.Module):
    """What both players meet on in one batch: everything that z and T are compared at.

    Attributes:
        densities: r(z|x) of each posterior draw's datum.
        seen: What the critic keeps of that datum.
        on_posterior: For each of the critic's b ratios, see
            :meth:`~avb.critics.AbstractCritic.pairs`, values at draws of the density above, one a
            posterior draw.
        on_contrast: The same at m draws of the density below for each of those.
        fit_loss: Negative log-likelihood of a learned contrast at ``fit_draws`` posterior draws,
            else zero.
    """

    densities: PyTree
    seen: Float[Array, "r c"]
    on_posterior: Float[Array, "b r"]
    on_contrast: Float[Array, "b r m"]
    fit_loss: Scalar


def contest(
    method: Method, x: Data, features: Float[Array, "n f"], z: Float[Array, "r d"], key: Key
) -> Contest:
    """The critic's values on posterior and contrast draws; posterior and draws are constants.

    Contrast and the critic's features are made once a datum, whatever its number of draws, which
    are r / n successive rows of ``z``.
    """
    contrast, critic, prior = method.contrast, method.critic, method.model.fixed_prior
    assert isinstance(contrast, AbstractContrast)
    assert critic is not None
    features, z = lax.stop_gradient((features, z))
    posterior = stop(method.posterior)
    key_condition, key_sample, key_fit = jax.random.split(key, 3)
    keys = jax.random.split(key_condition, len(x))
    axes = contrast.density_axes
    densities = eqx.filter_vmap(contrast.condition, in_axes=(None, None, 0, 0), out_axes=axes)(
        posterior, prior, features, keys
    )
    draws = len(z) // len(x)
    densities = repeated(densities, draws, axes)
    fit_loss = jnp.zeros(())
    if contrast.is_learned:
        fitted = _draws_to_fit(posterior, features, z, method.fit_draws, key_fit)
        of_datum = jax.vmap(lambda density, z: density.log_prob(z), in_axes=(None, 0))
        fit_loss = -jnp.mean(jax.vmap(of_datum, in_axes=(axes, 0))(densities, fitted))
    densities = stop(densities)
    seen = repeated(jax.vmap(critic.features)(x, features), draws)

    def values(density, seen, z, key):
        keys = jax.random.split(key, method.contrast_draws)
        sample = jax.vmap(density.sample)(keys)
        return critic.pairs(seen, density.whiten(z), jax.vmap(density.whiten)(sample))

    keys = jax.random.split(key_sample, len(z))
    on_posterior, on_contrast = jax.vmap(values, in_axes=(axes, 0, 0, 0), out_axes=1)(
        densities, seen, z, keys
    )
    return Contest(densities, seen, on_posterior, on_contrast, fit_loss)


def _draws_to_fit(
    posterior: AbstractPosterior,
    features: Float[Array, "n f"],
    z: Float[Array, "r d"],
    count: int,
    key: Key,
) -> Float[Array, "r {count} d"]:
    """Each posterior draw, and ``count - 1`` further ones of its datum."""
    z = z[:, None, :]
    if count == 1:
        return z
    further = (len(z), count - 1)
    keys = jax.random.split(key, further)
    of_datum = jax.vmap(posterior.draw, in_axes=(None, 0))
    drawn = jax.vmap(of_datum)(repeated(features, len(z) // len(features)), keys)
    return jnp.concatenate([z, lax.stop_gradient(drawn)], axis=1)


def adversary_loss(method: Method, met: Contest) -> tuple[Scalar, Scalar]:
    """The critic's objective plus the contrast's negative log-likelihood; and the objective."""
    assert method.objective is not None
    critic_loss = jnp.sum(jax.vmap(method.objective.loss)(met.on_posterior, met.on_contrast))
    return critic_loss + met.fit_loss, critic_loss


def offset_of(method: Method, on_contrast: Float[Array, "b n m"]) -> Scalar:
    """What the objective leaves to subtract from T, the sum of the critic's b ratios."""
    assert method.objective is not None
    return jnp.sum(jax.vmap(method.objective.offset)(on_contrast))
