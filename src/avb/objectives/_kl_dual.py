"""The dual of the Kullback-Leibler divergence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Scalar
from avb.objectives._base import AbstractObjective


class KLDual(AbstractObjective):
    """L(T) = E_r[exp T] − E_q[T], minimised by T* = log q − log r.

    The same critic in the convention of a critic S* = log q − 1 (∫ exp(S + 1) dz − E_q[S],
    the integral importance-sampled from r) is S = T + log r − 1, see :meth:`log_density_minus_one`;
    the ELBO then uses −(S + 1). The form E_q[exp S − S], with both expectations under q,
    is minimised by S = 0 whatever q is, and teaches nothing.

    References:
        Nguyen, Wainwright & Jordan (2010), https://arxiv.org/abs/0809.0853.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        return jnp.mean(jnp.exp(on_contrast)) - jnp.mean(on_posterior)

    def log_density_minus_one(
        self, critic_values: Float[Array, "..."], log_contrast: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """S = T + log r − 1, whose optimum is log q − 1."""
        return critic_values + log_contrast - 1.0
