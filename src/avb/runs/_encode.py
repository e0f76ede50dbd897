"""Posterior draws of data."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from avb.evaluation._batched import over_batches
from avb.runs._load import Run

BATCH_SIZE = 256


class Encoded(NamedTuple):
    """Posterior draws ``z`` of shape ``(n, s, d)`` and their ``mean`` of shape ``(n, d)``."""

    z: np.ndarray
    mean: np.ndarray


@eqx.filter_jit
def _draws(posterior, draws, x, keys):
    return jax.vmap(lambda x, key: posterior.sample(key, x, (draws,)))(x, keys)


def encode(run: Run, data: np.ndarray, *, draws: int, seed: int = 0) -> Encoded:
    """Draw from q(z|x) for each datum.

    Args:
        run: The run.
        data: Data in the values that the likelihood takes.
        draws: Draws a datum.
        seed: Seed of the draws.

    Returns:
        The draws and their mean over the draws of each datum.
    """
    z = over_batches(
        lambda x, keys: _draws(run.method.posterior, draws, x, keys),
        data.astype(np.float32),
        key=jax.random.key(seed),
        batch_size=BATCH_SIZE,
    )
    return Encoded(z, z.mean(axis=1))
