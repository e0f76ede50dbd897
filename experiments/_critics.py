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

OBJECTIVES: tuple[AbstractObjective, ...] = (
    KLDual(),
    Logistic(),
    WeightedLogistic(),
    DonskerVaradhan(),
    LeastSquares(),
)


def draws(density: AbstractDensity, key: Key, count: int) -> Float[Array, "n d"]:
    """Several draws of a density."""
    return jax.vmap(density.sample)(jax.random.split(key, count))


def relative(got: Array, expected: Array) -> Scalar:
    """Relative L2 error over all entries."""
    return jnp.sqrt(jnp.sum((got - expected) ** 2) / jnp.sum(expected**2))
