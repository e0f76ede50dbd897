"""A Gaussian reshaped by a conditional normalizing flow."""

import jax.numpy as jnp
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities._base import AbstractDensity
from avb.densities._gaussian import DiagonalGaussian


class FlowDensity(AbstractDensity):
    """z = loc + scale ⊙ u with u from a conditional flow.

    Args:
        base: Holds ``loc`` and ``log_scale``, of shape ``(d,)``.
        flow: A FlowJAX distribution over u of shape ``(d,)``, conditioned on a vector.
        condition: The conditioning vector.
    """

    base: DiagonalGaussian
    flow: AbstractDistribution
    condition: Float[Array, " c"]

    def sample(self, key: Key) -> Latent:
        u = self.flow.sample(key, condition=self.condition)
        return self.base.loc + jnp.exp(self.base.log_scale) * u

    def log_prob(self, z: Latent) -> Scalar:
        u = self.base.whiten(z)
        return self.flow.log_prob(u, condition=self.condition) - jnp.sum(self.base.log_scale)

    def whiten(self, z: Latent) -> Latent:
        return self.base.whiten(z)
