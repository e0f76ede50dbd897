"""Networks for images as the command line makes them: the encoder sees standardised pixels."""

import numpy as np

from avb import Architecture


def standardised(data: np.ndarray, *, latent_dim: int, width: int, depth: int = 2) -> Architecture:
    """Fully connected networks for training images of type ``uint8``."""
    return Architecture(
        data.shape[1:],
        latent_dim=latent_dim,
        width=width,
        depth=depth,
        input_shift=float(data.mean() / 255.0),
        input_scale=float(data.std() / 255.0),
    )
