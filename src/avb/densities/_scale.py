"""Positive scales from unbounded network outputs, in one place.

An unbounded ``exp`` overflows on funnels and lets a scale collapse to zero, where the
log density has no finite gradient; every scale in the package is kept in the same range.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_SCALE_MIN = -7.0
LOG_SCALE_MAX = 4.0
MAX_SHIFT = 4.0


def bounded_log_scale(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """A smooth clip to ``(LOG_SCALE_MIN, LOG_SCALE_MAX)``, the identity well inside it."""
    lifted = LOG_SCALE_MIN + jax.nn.softplus(raw - LOG_SCALE_MIN)
    return LOG_SCALE_MAX - jax.nn.softplus(LOG_SCALE_MAX - lifted)


def bounded_shift(raw: Float[Array, "..."], reach: float = MAX_SHIFT) -> Float[Array, "..."]:
    """A smooth clip to ``(−reach, reach)``, the identity near zero."""
    return reach * jnp.tanh(raw / reach)


def bounded_scale(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """A positive scale, ``exp`` of :func:`bounded_log_scale`."""
    return jnp.exp(bounded_log_scale(raw))
