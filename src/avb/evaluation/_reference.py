"""Log q(z|x) for comparison, by the best means that a posterior allows."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PyTree

from avb._types import Features, Key, Latent, Scalar
from avb.contrasts._self import mixture
from avb.densities import DiagonalGaussian
from avb.evaluation._fresh import FreshDensity
from avb.posteriors import AbstractPosterior, AbstractTractablePosterior, SemiImplicitPosterior

COMPONENTS = 1024


class View(NamedTuple):
    """Posterior draws of one datum and what is known of their density.

    Attributes:
        z: Posterior draws, shape ``(s, d)``.
        origin: What each draw came from, stacked; for ``at_draw`` only.
        at_draw: Log q at a posterior draw, given its origin.
        elsewhere: Log q at any latent vector.
    """

    z: Float[Array, "s d"]
    origin: PyTree
    at_draw: Callable[[Latent, PyTree], Scalar]
    elsewhere: Callable[[Latent], Scalar]


class Reference(eqx.Module):
    """Where log q(z|x) comes from: its density, a large mixture, or fresh critics.

    Attributes:
        posterior: q(z|x).
        fresh: Fresh critics' density, for a posterior that can only be sampled.
    """

    posterior: AbstractPosterior
    fresh: FreshDensity | None

    @property
    def name(self) -> str:
        """In words, for a table."""
        if isinstance(self.posterior, AbstractTractablePosterior):
            return "exact density"
        if isinstance(self.posterior, SemiImplicitPosterior):
            return f"mixture of {COMPONENTS} conditionals"
        return "fresh critics"

    def view(self, index: Int32[Array, ""], features: Features, key: Key, draws: int) -> View:
        """Posterior draws of one datum, with their density."""
        key_z, key_noise = jax.random.split(key)
        keys = jax.random.split(key_z, draws)
        posterior, fresh = self.posterior, self.fresh
        if isinstance(posterior, SemiImplicitPosterior):
            return _semi_implicit(posterior, features, key_noise, keys)
        if isinstance(posterior, AbstractTractablePosterior):
            log_prob = posterior.density(features).log_prob
        else:
            assert fresh is not None
            log_prob = lambda z: fresh.log_prob(index, z[None, :])[0]  # noqa: E731
        z = jax.vmap(posterior.draw, in_axes=(None, 0))(features, keys)
        return View(z, jnp.zeros(draws), lambda z, _: log_prob(z), log_prob)


def _semi_implicit(posterior: SemiImplicitPosterior, features, key: Key, keys: Key) -> View:
    """The mixture over fresh noise, and the draw's own where there is one."""
    shared = mixture(posterior, features, jax.random.normal(key, (COMPONENTS, posterior.noise_dim)))

    def draw(key: Key) -> tuple[DiagonalGaussian, Latent]:
        key_noise, key_z = jax.random.split(key)
        own = posterior.conditional(features, jax.random.normal(key_noise, (posterior.noise_dim,)))
        return own, own.sample(key_z)

    def at_draw(z: Latent, own: DiagonalGaussian) -> Scalar:
        total = shared.log_prob(z) + jnp.log(float(COMPONENTS))
        return jnp.logaddexp(total, own.log_prob(z)) - jnp.log1p(float(COMPONENTS))

    own, z = jax.vmap(draw)(keys)
    return View(z, own, at_draw, shared.log_prob)
