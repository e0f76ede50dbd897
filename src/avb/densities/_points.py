"""Sets of ε that fill their space evenly: quasi-Monte Carlo with a random shift.

Each point of a set is one of N(0, I), so that all bounds hold which ask for no more: the mixture
over a set has the posterior as its mean. Evenly spaced, few points stand for many.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from avb._types import Key


def even_points(count: int, dim: int) -> Float[np.ndarray, "k e"]:
    """The first points of a scrambled Sobol sequence in the unit cube; a power of two of them."""
    sampler = scipy.stats.qmc.Sobol(dim, scramble=True, rng=0)
    return sampler.random(count).astype(np.float32)


def shifted_normal(points: Float[Array, "k e"], key: Key) -> Float[Array, "k e"]:
    """Points of N(0, I): all of a set shifted alike, around the cube.

    References:
        Cranley & Patterson (1976), https://doi.org/10.1137/0713071.
    """
    moved = (points + jax.random.uniform(key, points.shape[1:], points.dtype)[None, :]) % 1.0
    # Half a step of float32 away from where the quantile is infinite.
    return jax.scipy.special.ndtri(jnp.clip(moved, 2.0**-24, 1.0 - 2.0**-24))
