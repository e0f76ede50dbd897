"""Training data on the device, and the batch that belongs to each step."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from avb._errors import DataError
from avb._types import Key, Shape

Encoding = Literal["binarise", "real"]


def random_bytes(key: Key, shape: Shape) -> Array:
    """Uniform ``uint8``, four to each 32-bit word that the generator makes."""
    size = int(np.prod(shape))
    words = jax.random.bits(key, (-(-size // 4),), jnp.uint32)
    return lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape)


def binarise(pixels: Array, key: Key) -> Float[Array, "..."]:
    """Draw each ``uint8`` pixel as Bernoulli(pixel / 255), to within 1/510.

    One random byte a pixel: the probability is rounded to the nearest 1/256, exactly 0
    and 1 at the ends.
    """
    noise = random_bytes(key, pixels.shape)
    upper_half = pixels >= 128
    return ((noise < pixels) | ((noise == pixels) & upper_half)).astype(jnp.float32)


class DeviceData(eqx.Module):
    """All training data on the device, in the dtype in which they were stored.

    Args:
        raw: Data of shape ``(n, *data_shape)``.
        encoding: ``"binarise"`` draws ``uint8`` pixels anew at each use (dynamic
            binarisation); ``"real"`` converts to float32.
        batch_size: Data a step.

    Raises:
        DataError: Fewer data than a batch, values that are not finite, or pixels of another
            type to binarise.
    """

    raw: Array
    encoding: Encoding = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(self, raw: np.ndarray, encoding: Encoding, batch_size: int):
        if len(raw) < batch_size:
            raise DataError(
                f"training data: expected at least one batch of {batch_size}, got {len(raw)} "
                f"data; use a smaller batch size"
            )
        if encoding == "binarise" and raw.dtype != np.uint8:
            raise DataError(f"dynamic binarisation: expected uint8 pixels, got {raw.dtype}")
        if np.issubdtype(raw.dtype, np.floating) and not np.isfinite(raw).all():
            raise DataError("training data: expected finite numbers, got NaN or infinity")
        self.raw = jnp.asarray(raw)
        self.encoding = encoding
        self.batch_size = batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; the rest of each epoch's order is left out."""
        return self.raw.shape[0] // self.batch_size

    def order(self, key: Key, epoch: Int32[Array, ""]) -> Int32[Array, " n"]:
        """The order of the data in an epoch: a function of key and epoch alone."""
        return jax.random.permutation(jax.random.fold_in(key, epoch), self.raw.shape[0])

    def batch(self, order: Int32[Array, " n"], position: Int32[Array, ""], key: Key) -> Array:
        """The batch at a position of an epoch's order, as float32."""
        start = position * self.batch_size
        index = lax.dynamic_slice_in_dim(order, start, self.batch_size)
        return self.values(self.raw[index], key)

    def values(self, chosen: Array, key: Key) -> Array:
        """Some of the data as the likelihood takes them, float32."""
        return binarise(chosen, key) if self.encoding == "binarise" else as_real(chosen)


def as_real(raw: Array) -> Float[Array, "..."]:
    """Stored values as float32: ``uint8`` pixels to [0, 1], all else as it stands."""
    values = raw.astype(jnp.float32)
    return values / 255.0 if raw.dtype == jnp.uint8 else values
