"""Gaussians with diagonal and with full covariance."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities._base import AbstractDensity

LOG_2PI = math.log(2.0 * math.pi)


def standard_normal_log_prob(white: Latent) -> Scalar:
    """Log density of a standard normal vector, in nats."""
    return -0.5 * jnp.sum(white**2) - 0.5 * white.size * LOG_2PI


class DiagonalGaussian(AbstractDensity):
    """A Gaussian with independent coordinates.

    Args:
        loc: Mean, of shape ``(d,)``.
        log_scale: Log standard deviations, of shape ``(d,)``.
    """

    loc: Latent
    log_scale: Latent

    def sample(self, key: Key) -> Latent:
        return self.loc + jnp.exp(self.log_scale) * jax.random.normal(key, self.loc.shape)

    def log_prob(self, z: Latent) -> Scalar:
        return standard_normal_log_prob(self.whiten(z)) - jnp.sum(self.log_scale)

    def whiten(self, z: Latent) -> Latent:
        return (z - self.loc) * jnp.exp(-self.log_scale)


class FullGaussian(AbstractDensity):
    """A Gaussian with any covariance, given by its Cholesky factor.

    Args:
        loc: Mean, of shape ``(d,)``.
        scale_tril: Lower-triangular factor of the covariance, of shape ``(d, d)``,
            with a positive diagonal.
    """

    loc: Latent
    scale_tril: Float[Array, "d d"]

    def sample(self, key: Key) -> Latent:
        return self.loc + self.scale_tril @ jax.random.normal(key, self.loc.shape)

    def log_prob(self, z: Latent) -> Scalar:
        log_det = jnp.sum(jnp.log(jnp.diagonal(self.scale_tril)))
        return standard_normal_log_prob(self.whiten(z)) - log_det

    def whiten(self, z: Latent) -> Latent:
        return jax.scipy.linalg.solve_triangular(self.scale_tril, z - self.loc, lower=True)
