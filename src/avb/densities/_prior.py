"""A model's prior as a density."""

import jax.numpy as jnp
import numpyro.distributions as dist

from avb._types import Key, Latent, Scalar
from avb.densities._base import AbstractDensity


class PriorDensity(AbstractDensity):
    """A NumPyro distribution over latent vectors, seen as a density.

    Args:
        prior: A distribution with event shape ``(d,)``, of finite mean and variance.
    """

    prior: dist.Distribution

    def sample(self, key: Key) -> Latent:
        return jnp.asarray(self.prior.sample(key))

    def log_prob(self, z: Latent) -> Scalar:
        return jnp.asarray(self.prior.log_prob(z))

    def whiten(self, z: Latent) -> Latent:
        return (z - self.prior.mean) / jnp.sqrt(self.prior.variance)
