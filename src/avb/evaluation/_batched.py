"""Batches of data through a compiled function; the last one padded, so nothing recompiles."""

import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from avb._errors import DataError
from avb._types import Key, Shape

Progress = Callable[[int, int], None]


def check_data(data: np.ndarray, data_shape: Shape) -> np.ndarray:
    """The data as float32, after their shape and values were checked.

    Raises:
        DataError: Another shape than the model's, no data, or non-finite values.
    """
    data = np.asarray(data)
    if data.shape[1:] != data_shape or data.ndim < 1:
        raise DataError(f"data to evaluate: expected shape (n, {data_shape}), got {data.shape}")
    if len(data) == 0:
        raise DataError("data to evaluate: expected at least one datum, got none")
    data = data.astype(np.float32)
    if not np.isfinite(data).all():
        raise DataError("data to evaluate: expected finite numbers, got NaN or infinity")
    return data


def over_batches(
    function: Callable[..., PyTree],
    data: np.ndarray,
    *,
    key: Key,
    batch_size: int,
    progress: Progress | None = None,
) -> PyTree:
    """Apply ``function(x, key)``, one datum at a time by ``vmap``, to all data.

    Args:
        function: Compiled; takes a batch and as many keys.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key; datum i always gets the same key, whatever the batch size.
        batch_size: Data at a time, at most.
        progress: Called with the data done and those in all.

    Returns:
        The results as numpy arrays with leading axis n.
    """
    total = len(data)
    # As few batches of even sizes: the last is filled up, and what fills it costs as much.
    batch_size = math.ceil(total / math.ceil(total / batch_size))
    keys = jax.random.split(key, total)
    parts = []
    for start in range(0, total, batch_size):
        index = np.arange(start, start + batch_size) % total
        part = jax.tree.map(np.asarray, function(data[index], keys[index]))
        kept = min(batch_size, total - start)
        parts.append(jax.tree.map(lambda leaf, kept=kept: leaf[:kept], part))
        if progress is not None:
            progress(start + kept, total)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
