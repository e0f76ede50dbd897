"""Choosing among draws by Pareto-smoothed importance weights."""

import warnings

import jax
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
    """Draws by weights whose tail is smoothed, each n w times, rounded up or down.

    Drawn one by one, equal weights would already repeat some draws and leave out others.

    References:
        Vehtari et al. (2024), https://arxiv.org/abs/1507.02646; systematic resampling: Douc,
        Cappé & Moulines (2005), https://arxiv.org/abs/cs/0507025, section 2.4.
    """
    key_first, key_order = jax.random.split(key)
    smoothed = _smoothed(np.asarray(log_weights, np.float64))
    shares = np.cumsum(np.exp(smoothed - np.max(smoothed)))
    places = (np.arange(count) + float(jax.random.uniform(key_first))) / count
    chosen = np.searchsorted(shares, places * shares[-1], side="right")
    # The last place may be rounded up to the end.
    return z[jax.random.permutation(key_order, np.minimum(chosen, len(shares) - 1))]


def _smoothed(log_weights: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    from arviz_stats.base.array import array_stats

    try:
        # ArviZ takes log likelihoods, whose negatives are the log weights.
        return array_stats.psislw(-log_weights)[0]
    except ValueError:
        # Weights whose largest are equal to the last bit have no tail to smooth.
        return log_weights
