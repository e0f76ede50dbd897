"""Mixtures of Gaussians."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities._base import AbstractDensity
from avb.densities._gaussian import DiagonalGaussian, FullGaussian


class GaussianMixture(AbstractDensity):
    """A mixture of diagonal Gaussians with equal weights.

    Whitened coordinates use the mixture's own mean and covariance.

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

    def sample(self, key: Key) -> Latent:
        key_component, key_z = jax.random.split(key)
        index = jax.random.randint(key_component, (), 0, self.components.loc.shape[0])
        chosen = jax.tree.map(lambda leaf: leaf[index], self.components)
        return chosen.sample(key_z)

    def log_prob(self, z: Latent) -> Scalar:
        log_probs = self.component_log_probs(z)
        return jax.nn.logsumexp(log_probs) - jnp.log(float(log_probs.size))

    def whiten(self, z: Latent) -> Latent:
        return self.moments().whiten(z)

    def moments(self) -> FullGaussian:
        """The Gaussian with the mixture's own mean and full covariance."""
        loc, log_scale = self.components.loc, self.components.log_scale
        mean = jnp.mean(loc, axis=0)
        centred = loc - mean[None, :]
        within = jnp.diag(jnp.mean(jnp.exp(2.0 * log_scale), axis=0))
        covariance = within + centred.T @ centred / loc.shape[0]
        return FullGaussian(mean, jnp.linalg.cholesky(covariance))


class DefensiveMixture(AbstractDensity):
    """Half a mixture of narrow Gaussians, half the one Gaussian with its moments.

    Between the narrow components the mixture alone falls off without limit, and log r
    with it; the wide component keeps −log r within a quadratic of the whitened distance.

    Args:
        narrow: The mixture.
        wide: A Gaussian that covers it.
    """

    narrow: GaussianMixture
    wide: FullGaussian

    def sample(self, key: Key) -> Latent:
        key_choice, key_narrow, key_wide = jax.random.split(key, 3)
        choice = jax.random.bernoulli(key_choice)
        return jnp.where(choice, self.narrow.sample(key_narrow), self.wide.sample(key_wide))

    def log_prob(self, z: Latent) -> Scalar:
        both = jnp.logaddexp(self.narrow.log_prob(z), self.wide.log_prob(z))
        return both - jnp.log(2.0)

    def whiten(self, z: Latent) -> Latent:
        return self.wide.whiten(z)
