"""Least-squares fit of the relative density ratio."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Scalar
from avb.objectives._base import AbstractObjective


class LeastSquares(AbstractObjective):
    """L(T) = E_q[(1 − σ(T))²] + E_r[σ(T)²], with σ the logistic function.

    Twice σ(T) is fitted to the ratio of q to (q + r) / 2, which is at most 2, whatever q and r. A
    fit of q / r itself, ½ E_r[exp 2T] − E_q[exp T], has a gradient of finite variance only where
    E_r[(q/r)⁴] is finite, and one nat from a Gaussian contrast that is infinite.

    References:
        Yamada et al. (2013), https://doi.org/10.1162/NECO_a_00442, with α = ½; as a loss of
        adversarial training, Mao et al. (2017), https://arxiv.org/abs/1611.04076.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        missed = jnp.mean(jax.nn.sigmoid(-on_posterior) ** 2)
        return missed + jnp.mean(jax.nn.sigmoid(on_contrast) ** 2)
