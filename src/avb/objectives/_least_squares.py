"""Least-squares fit of the density ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Scalar
from avb.objectives._base import AbstractObjective


class LeastSquares(AbstractObjective):
    """L(T) = ½ E_r[exp 2T] − E_q[exp T].

    References:
        Kanamori, Hido & Sugiyama (2009), https://jmlr.org/papers/v10/kanamori09a.html.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        return 0.5 * jnp.mean(jnp.exp(2.0 * on_contrast)) - jnp.mean(jnp.exp(on_posterior))
