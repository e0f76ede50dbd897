"""Choosing among draws by Pareto-smoothed importance weights."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key
from avb.inference._measure import MAX_PARETO_K, Importance


class ResampleWarning(UserWarning):
    """The importance weights have too heavy a tail to resample by."""


def warn_if_untrusted(importance: Importance, *, stacklevel: int) -> None:
    """Warn where k̂ says that the weights cannot be relied on."""
    if not importance.trusted:
        warnings.warn(
            f"Pareto k of the importance weights is {importance.pareto_k:.2f}, above "
            f"{MAX_PARETO_K}: resampled draws may be worse than plain ones",
            ResampleWarning,
            stacklevel=stacklevel + 1,
        )


def choose(
    z: Float[Array, "s d"], log_weights: Float[Array, " s"], key: Key, count: int
) -> Float[Array, "n d"]:
    """Draws with replacement, by weights whose tail is smoothed.

    References:
        Vehtari et al. (2024), https://arxiv.org/abs/1507.02646.
    """
    from arviz_stats.base.array import array_stats

    # ArviZ takes log likelihoods, whose negatives are the log weights.
    smoothed = array_stats.psislw(-np.asarray(log_weights, np.float64))[0]
    return z[jax.random.categorical(key, jnp.asarray(smoothed, z.dtype), shape=(count,))]
