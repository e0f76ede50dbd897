"""What every average over posterior draws needs."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Scalar


def mean_and_error(values: Float[Array, " s"]) -> tuple[Scalar, Scalar]:
    """Mean over draws and its standard error."""
    return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(float(values.size))


def check_draws(draws: int) -> None:
    """Raise a ``ConfigError`` unless there are enough draws for a standard error."""
    if draws < 2:
        raise ConfigError(f"draws a datum: expected at least 2 for a standard error, got {draws}")
