"""A density of which draws fall both where a critic was trained and where the posterior lies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key
from avb.densities import AbstractDensity, FullGaussian
from avb.evaluation._critic import CriticDensity
from avb.evaluation._fresh_training import Corner


class MixedContrast(NamedTuple):
    """Half a critic's own contrast, half a Gaussian fitted to the posterior.

    Over the prior alone, hardly one draw would fall where the posterior lies.

    Attributes:
        own: The contrast that the critic was trained on.
        fitted: The Gaussian with the posterior's moments.
    """

    own: AbstractDensity
    fitted: FullGaussian

    @classmethod
    def of(cls, claimed: CriticDensity, corner: Corner) -> "MixedContrast":
        """Of a critic's density and fresh critics at one datum."""
        return cls(claimed.contrast, corner.contrast)

    def draws(self, key: Key, count: int) -> Float[Array, "n d"]:
        """``count`` draws of the one, then as many of the other: strata to average in pairs."""
        key_own, key_fitted = jax.random.split(key)
        own = jax.vmap(self.own.sample)(jax.random.split(key_own, count))
        fitted = jax.vmap(self.fitted.sample)(jax.random.split(key_fitted, count))
        return jnp.concatenate([own, fitted])

    def log_prob(self, z: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Log density at several latent vectors, in nats."""
        own, fitted = jax.vmap(self.own.log_prob)(z), jax.vmap(self.fitted.log_prob)(z)
        return jnp.logaddexp(own, fitted) - jnp.log(2.0)


def in_pairs(values: Float[Array, " n"]) -> Float[Array, " s"]:
    """The means of draws of both halves of a mixed contrast: independent, and alike."""
    first, second = jnp.split(values, 2)
    return 0.5 * (first + second)
