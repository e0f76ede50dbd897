"""Equally weighted mixtures of diagonal Gaussians."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities._base import AbstractDensity
from avb.densities._gaussian import DiagonalGaussian


class GaussianMixture(AbstractDensity):
    """A mixture of diagonal Gaussians with equal weights.

    Whitened coordinates use the mixture's own mean and standard deviations.

    Args:
        components: The Gaussians, stacked: ``loc`` and ``log_scale`` of shape ``(k, d)``.
    """

    components: DiagonalGaussian

    def component_log_probs(self, z: Latent) -> Float[Array, " k"]:
        """Log density of each component at one latent vector, in nats."""
        # Scales are exponentiated before the vector enters, so that a batch of
        # vectors against the same components pays for each exponential once.
        loc, log_scale = self.components.loc, self.components.log_scale
        white = (z[None, :] - loc) * jnp.exp(-log_scale)
        normaliser = jnp.sum(log_scale, axis=-1) + 0.5 * z.size * jnp.log(2.0 * jnp.pi)
        return -0.5 * jnp.sum(white**2, axis=-1) - normaliser

    def sample(self, key: Key) -> Latent:  # noqa: D102
        key_component, key_z = jax.random.split(key)
        index = jax.random.randint(key_component, (), 0, self.components.loc.shape[0])
        chosen = jax.tree.map(lambda leaf: leaf[index], self.components)
        return chosen.sample(key_z)

    def log_prob(self, z: Latent) -> Scalar:  # noqa: D102
        log_probs = self.component_log_probs(z)
        return jax.nn.logsumexp(log_probs) - jnp.log(float(log_probs.size))

    def whiten(self, z: Latent) -> Latent:  # noqa: D102
        loc, log_scale = self.components.loc, self.components.log_scale
        variance = jnp.mean(jnp.exp(2.0 * log_scale), axis=0) + jnp.var(loc, axis=0)
        return (z - jnp.mean(loc, axis=0)) * jax.lax.rsqrt(variance)
