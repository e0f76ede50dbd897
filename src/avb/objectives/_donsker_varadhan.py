"""The Donsker-Varadhan representation of the Kullback-Leibler divergence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Scalar
from avb.objectives._base import AbstractObjective


class DonskerVaradhan(AbstractObjective):
    """L(T) = log E_r[exp T] − E_q[T], minimised by T* + c with one constant c for all data.

    The expectation under r runs over the whole batch: within a single datum's few draws it
    would have no minimum. The constant is the logarithm of E_r[exp T].

    References:
        Belghazi et al. (2018), https://arxiv.org/abs/1801.04062, theorem 1.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        return self.offset(on_contrast) - jnp.mean(on_posterior)

    def offset(self, on_contrast: Float[Array, "n m"]) -> Scalar:
        return jax.nn.logsumexp(on_contrast) - jnp.log(float(on_contrast.size))
