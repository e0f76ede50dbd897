"""The data set that models train on."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from avb._errors import DataError
from avb.data._checks import check_finite
from avb.data._splits import Splits

_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.float32))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set, checked at construction.

    Attributes:
        name: What the data set is called in messages and reports.
        train: Training rows, of shape `(n, *data_shape)` and dtype uint8, int32 or float32.
        validation: Validation rows, of the same row shape and dtype.
        test: Test rows, of the same row shape and dtype.
        provenance: Where the data came from, as values that JSON can hold.

    Raises:
        DataError: If a split is empty or not finite, or the splits do not fit each other.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        for split, array in self._splits._asdict().items():
            self._check_split(split, array)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.train.shape[1:]

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the values, shapes and dtypes of the three splits.

        It is computed anew at each access, so that it tells of a changed array.
        """
        digest = hashlib.sha256()
        for array in self._splits:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def _splits(self) -> Splits:
        return Splits(self.train, self.validation, self.test)

    def _check_split(self, split: str, array: np.ndarray) -> None:
        label = f"{self.name}, {split} split"
        if array.ndim == 0 or array.size == 0:
            raise DataError(
                f"{label}: expected at least one row with at least one value, "
                f"got shape {array.shape}."
            )
        if array.dtype not in _DTYPES:
            raise DataError(f"{label}: expected dtype uint8, int32 or float32, got {array.dtype}.")
        if array.dtype != self.train.dtype:
            raise DataError(
                f"{label}: expected dtype {self.train.dtype} as in the train split, "
                f"got {array.dtype}."
            )
        if array.shape[1:] != self.data_shape:
            raise DataError(
                f"{label}: expected rows of shape {self.data_shape} as in the train split, "
                f"got {array.shape[1:]}."
            )
        check_finite(array, label=label)
