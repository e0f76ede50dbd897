import dataclasses
import re
from typing import NamedTuple

import numpy as np
import pytest
from test_data_helpers import random_images

from avb._errors import DataError
from avb.data import Dataset


def make(**changes: object) -> Dataset:
    fields = {
        "name": "toy",
        "train": random_images(6),
        "validation": random_images(2, seed=1),
        "test": random_images(3, seed=2),
        "provenance": {},
    }
    return Dataset(**(fields | changes))  # pyright: ignore[reportArgumentType]


class BadSplit(NamedTuple):
    split: str
    array: np.ndarray
    message: str


BAD = [
    BadSplit(
        "train",
        random_images(0),
        "toy, train split: expected at least one row with at least one value, got shape (0, 5, 4).",
    ),
    BadSplit(
        "test",
        np.array(1, np.uint8),
        "toy, test split: expected at least one row with at least one value, got shape ().",
    ),
    BadSplit(
        "validation",
        random_images(2, (5, 5)),
        "toy, validation split: expected rows of shape (5, 4) as in the train split, got (5, 5).",
    ),
    BadSplit(
        "test",
        random_images(2).astype(np.float32),
        "toy, test split: expected dtype uint8 as in the train split, got float32.",
    ),
    BadSplit(
        "train",
        random_images(2).astype(np.float64),
        "toy, train split: expected dtype uint8, int32 or float32, got float64.",
    ),
    BadSplit(
        "train",
        np.array([[0, 1], [np.inf, np.nan]], np.float32),
        "toy, train split: expected finite values, got 2 NaN or infinite, the first at index "
        "(1, 0); remove or replace them.",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.message)
def test_bad_split_is_refused(bad: BadSplit):
    with pytest.raises(DataError, match=f"^{re.escape(bad.message)}$"):
        make(**{bad.split: bad.array})


def test_dataset_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 3)])
def test_data_shape_is_that_of_a_row(shape: tuple[int, ...]):
    dataset = make(**{s: random_images(2, shape) for s in ("train", "validation", "test")})
    assert dataset.data_shape == shape


def test_fingerprint_depends_on_the_splits_only():
    assert make().fingerprint == make(name="other", provenance={"a": 1}).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", make().fingerprint)


def test_fingerprint_does_not_depend_on_memory_layout():
    assert make().fingerprint == make(train=np.asfortranarray(random_images(6))).fingerprint


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_fingerprint_changes_with_any_value(split: str):
    dataset = make()
    before = dataset.fingerprint
    getattr(dataset, split)[-1, -1, -1] ^= 1
    assert dataset.fingerprint != before


def test_fingerprint_changes_with_shape_dtype_and_split():
    original = make()
    splits = [original.train, original.validation, original.test]
    names = ("train", "validation", "test")
    flat = make(**dict(zip(names, [s.reshape(len(s), -1) for s in splits], strict=True)))
    wide = make(**dict(zip(names, [s.astype(np.int32) for s in splits], strict=True)))
    real = make(
        **dict(zip(names, [s.astype(np.int32).view(np.float32) for s in splits], strict=True))
    )
    moved = make(
        train=original.train[:-1],
        validation=np.concatenate([original.train[-1:], original.validation]),
    )
    fingerprints = {d.fingerprint for d in (original, flat, wide, real, moved)}
    assert len(fingerprints) == 5
