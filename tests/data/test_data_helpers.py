"""What the tests of `avb.data` share: writers of files, and the check of exact messages."""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from avb._errors import DataError
from avb.data import load_dataset

TRAIN = "train-images-idx3-ubyte"
TEST = "t10k-images-idx3-ubyte"


class Bad(NamedTuple):
    """A data set that cannot be loaded, and the message that the user sees.

    In `message`, `{dir}` is the folder that `write` was given, and `…` stands for the words of
    another library.
    """

    name: str
    write: Callable[[Path], object]
    message: str


def assert_refused(message: str, folder: Path, name: str, data_dir: Path | None = None) -> None:
    expected = re.escape(message.replace("{dir}", str(folder))).replace("…", ".*")
    with pytest.raises(DataError) as caught:
        load_dataset(name, data_dir=data_dir)
    assert re.fullmatch(expected, str(caught.value)), str(caught.value)


def random_images(n: int, shape: tuple[int, ...] = (5, 4), *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def idx_bytes(images: np.ndarray, *, magic: int = 0x803) -> bytes:
    return struct.pack(">IIII", magic, *images.shape) + images.tobytes()


def write_idx_pair(folder: Path, *, train: np.ndarray, test: np.ndarray) -> None:
    (folder / TRAIN).write_bytes(idx_bytes(train))
    (folder / f"{TEST}.gz").write_bytes(gzip.compress(idx_bytes(test)))
