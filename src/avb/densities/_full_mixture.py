"""Mixtures of Gaussians with full covariances and weights of their own."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.densities._base import AbstractDensity
from avb.densities._gaussian import LOG_2PI, FullGaussian


class FullMixture(AbstractDensity):
    """Σ_k w_k N(z; m_k, (A_kᵀ A_k)⁻¹).

    Whitened coordinates use the mixture's own mean and covariance.

    Args:
        logits: Log of the weights, up to a constant, of shape ``(k,)``.
        loc: Means m, of shape ``(k, d)``.
        whitening: A, lower-triangular with a positive diagonal, of shape ``(k, d, d)``.
    """

    logits: Float[Array, " k"]
    loc: Float[Array, "k d"]
    whitening: Float[Array, "k d d"]

    @property
    def log_weights(self) -> Float[Array, " k"]:
        """Log of the weights."""
        return jax.nn.log_softmax(self.logits)

    @property
    def factors(self) -> Float[Array, "k d d"]:
        """Square roots A⁻¹ of the covariances."""
        eye = jnp.eye(self.loc.shape[1])
        return jax.vmap(lambda a: solve_triangular(a, eye, lower=True))(self.whitening)

    def sample(self, key: Key) -> Latent:
        key_part, key_z = jax.random.split(key)
        part = jax.random.categorical(key_part, self.logits)
        eta = jax.random.normal(key_z, self.loc.shape[1:])
        # All factors, not one: over many draws they are computed once.
        return self.loc[part] + self.factors[part] @ eta

    def log_prob(self, z: Latent) -> Scalar:
        white = jnp.einsum("kij,kj->ki", self.whitening, z[None, :] - self.loc)
        volumes = jnp.sum(jnp.log(jnp.diagonal(self.whitening, axis1=1, axis2=2)), axis=1)
        logs = self.log_weights + volumes - 0.5 * jnp.sum(white**2, axis=1)
        return jax.nn.logsumexp(logs) - 0.5 * z.size * LOG_2PI

    def whiten(self, z: Latent) -> Latent:
        return self.moments().whiten(z)

    def moments(self) -> FullGaussian:
        """The Gaussian with the mixture's own mean and covariance."""
        weights = jnp.exp(self.log_weights)
        mean = weights @ self.loc
        centred = self.loc - mean[None, :]
        factors = self.factors
        within = jnp.einsum("k,kij,klj->il", weights, factors, factors)
        between = jnp.einsum("k,ki,kj->ij", weights, centred, centred)
        return FullGaussian(mean, jnp.linalg.cholesky(within + between))
