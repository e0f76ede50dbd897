"""Rules that split rows into train, validation and test."""

from typing import NamedTuple

import numpy as np

from avb._errors import DataError

TENTHS_RULE = "80/10/10 by a fixed permutation (PCG64, seed 0)"
SIXTH_RULE = "first 5/6 of the training rows / last 1/6 of the training rows / test rows"


class Splits(NamedTuple):
    """The rows of the three splits."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def shuffled_split(array: np.ndarray, *, held_out: int) -> Splits:
    """Splits rows by a permutation that depends on nothing but their number.

    Args:
        array: The rows.
        held_out: How many rows the validation split, and again the test split, takes.
    """
    order = fixed_permutation(len(array))
    train, validation, test = np.split(order, [-2 * held_out, -held_out])
    return Splits(array[train], array[validation], array[test])


def split_in_tenths(array: np.ndarray, *, label: str) -> Splits:
    """Splits rows 80/10/10 by the fixed permutation, each split at least one row."""
    if len(array) < 3:
        raise DataError(
            f"{label}: expected at least 3 rows to split into train, validation and test, "
            f"got {len(array)}."
        )
    return shuffled_split(array, held_out=max(1, len(array) // 10))


def hold_out_last_sixth(train: np.ndarray, test: np.ndarray, *, label: str) -> Splits:
    """Takes the last sixth of the training rows, at least one, for validation."""
    if len(train) < 2:
        raise DataError(
            f"{label}: expected at least 2 training rows to split into train and validation, "
            f"got {len(train)}."
        )
    held_out = max(1, len(train) // 6)
    return Splits(train[:-held_out], train[-held_out:], test)


def fixed_permutation(n: int) -> np.ndarray:
    """The same permutation of `range(n)` on every machine and numpy version."""
    # numpy keeps a bit generator's raw stream for ever, but may change what
    # `Generator.permutation` makes of it, which would move rows between splits.
    return np.argsort(np.random.PCG64(0).random_raw(n), kind="stable")
