"""Checks on values that the readers and `Dataset` share."""

import numpy as np

from avb._errors import DataError


def check_finite(array: np.ndarray, *, label: str) -> None:
    """Refuses NaN and infinity, saying how many there are and where the first is."""
    finite = np.isfinite(array)
    if finite.all():
        return
    first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), array.shape))
    count = int(array.size - np.count_nonzero(finite))
    raise DataError(
        f"{label}: expected finite values, got {count} NaN or infinite, the first at index "
        f"{first}; remove or replace them."
    )
