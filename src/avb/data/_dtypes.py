"""Conversion of any numeric array to one of the dtypes of a data set."""

import numpy as np

from avb._errors import DataError
from avb.data._checks import check_finite


def to_supported(array: np.ndarray, *, label: str) -> np.ndarray:
    """Converts to uint8 (from uint8, bool), int32 (other integers) or float32 (floats)."""
    if array.dtype == np.uint8:
        return array
    match array.dtype.kind:
        case "b":
            return array.astype(np.uint8) * np.uint8(255)
        case "i" | "u":
            return _to_int32(array, label=label)
        case "f":
            return _to_float32(array, label=label)
        case _:
            raise DataError(
                f"{label}: expected booleans, integers or floats, got dtype {array.dtype}."
            )


def _to_int32(array: np.ndarray, *, label: str) -> np.ndarray:
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise DataError(
            f"{label}: expected integers that int32 can hold, "
            f"got values from {array.min()} to {array.max()}; rescale them."
        )
    return array.astype(np.int32, copy=False)


def _to_float32(array: np.ndarray, *, label: str) -> np.ndarray:
    check_finite(array, label=label)
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if not np.isfinite(converted).all():
        raise DataError(
            f"{label}: expected floats that float32 can hold, "
            f"got magnitudes up to {np.abs(array).max():.3g}; rescale them."
        )
    return converted
