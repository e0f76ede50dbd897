"""Data for what needs a posterior alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._errors import DataError
from avb.evaluation._batched import check_data
from avb.posteriors import AbstractPosterior


def check_encodable(posterior: AbstractPosterior, data: np.ndarray) -> np.ndarray:
    """The data as float32, after their values and the encoder's view of them were checked.

    Raises:
        DataError: The encoder takes no data of this shape; no data; or non-finite values.
    """
    data = np.asarray(data)
    datum = jax.ShapeDtypeStruct(data.shape[1:], jnp.float32)
    try:
        eqx.filter_eval_shape(posterior.sample, jax.random.key(0), datum)
    except (TypeError, ValueError) as error:
        raise DataError(
            "data to evaluate: expected data of a shape that the encoder takes, "
            f"got {data.shape[1:]} a datum"
        ) from error
    return check_data(data, data.shape[1:])
