"""Logistic regression between posterior and contrast draws."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Scalar
from avb.objectives._base import AbstractObjective


class Logistic(AbstractObjective):
    """L(T) = E_q[softplus(−T)] + E_r[softplus(T)].

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, eq. 3.3.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        return jnp.mean(jax.nn.softplus(-on_posterior)) + jnp.mean(jax.nn.softplus(on_contrast))


class WeightedLogistic(AbstractObjective):
    """Logistic regression with m contrast draws a posterior draw, the ratio accounted for.

    L(T) = E_q[softplus(log m − T)] + m E_r[softplus(T − log m)]: m = 1 is
    :class:`Logistic`, m → ∞ tends to :class:`KLDual`.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        ratio = float(on_contrast.shape[1])
        log_ratio = jnp.log(ratio)
        positive = jnp.mean(jax.nn.softplus(log_ratio - on_posterior))
        return positive + ratio * jnp.mean(jax.nn.softplus(on_contrast - log_ratio))
