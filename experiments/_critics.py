"""What experiments on critics of known densities share: objectives, draws, a measure of error."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Scalar
from avb.densities import AbstractDensity
from avb.objectives import (
    AbstractObjective,
    DonskerVaradhan,
    KLDual,
    LeastSquares,
    Logistic,
    WeightedLogistic,
)


class UnboundedLeastSquares(AbstractObjective):
    """L(T) = ½ E_r[exp 2T] − E_q[exp T], the fit of q / r itself, which the library leaves out.

    References:
        Kanamori, Hido & Sugiyama (2009), https://jmlr.org/papers/v10/kanamori09a.html.
    """

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        return 0.5 * jnp.mean(jnp.exp(2.0 * on_contrast)) - jnp.mean(jnp.exp(on_posterior))


OBJECTIVES: tuple[AbstractObjective, ...] = (
    KLDual(),
    Logistic(),
    WeightedLogistic(),
    DonskerVaradhan(),
    LeastSquares(),
    UnboundedLeastSquares(),
)


def draws(density: AbstractDensity, key: Key, count: int) -> Float[Array, "n d"]:
    """Several draws of a density."""
    return jax.vmap(density.sample)(jax.random.split(key, count))


def relative(got: Array, expected: Array) -> Scalar:
    """Relative L2 error over all entries."""
    return jnp.sqrt(jnp.sum((got - expected) ** 2) / jnp.sum(expected**2))
