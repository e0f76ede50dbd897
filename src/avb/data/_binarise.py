"""The fixed binarisation of held-out images."""

import numpy as np

from avb._errors import DataError

_BATCH = 2**20


def binarise_once(pixels: np.ndarray, *, seed: int) -> np.ndarray:
    """Draws each pixel as Bernoulli(value / 255), the same way for the same seed.

    Args:
        pixels: Images of dtype uint8, of any shape.
        seed: Seed of the draw.

    Returns:
        Zeros and ones of dtype uint8, of the shape of `pixels`.

    Raises:
        DataError: If `pixels` is not uint8.
    """
    if pixels.dtype != np.uint8:
        raise DataError(f"binarise_once: expected pixels of dtype uint8, got {pixels.dtype}.")
    rng = np.random.Generator(np.random.PCG64(seed))
    flat = pixels.reshape(-1)
    bits = np.empty_like(flat)
    # In batches, since the uniform draws take eight times the memory of the pixels.
    for start in range(0, flat.size, _BATCH):
        batch = flat[start : start + _BATCH]
        bits[start : start + _BATCH] = rng.random(batch.size) < batch / 255
    return bits.reshape(pixels.shape)
