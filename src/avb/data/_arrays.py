"""Arrays from .npy and .npz files, never through pickle."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from avb._errors import DataError
from avb.data._dataset import Dataset
from avb.data._dtypes import to_supported
from avb.data._files import open_file, record_file
from avb.data._provenance import describe
from avb.data._splits import (
    SIXTH_RULE,
    TENTHS_RULE,
    Splits,
    hold_out_last_sixth,
    split_in_tenths,
)

ARRAY_SUFFIXES = (".npy", ".npz")

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK"

# What numpy, zipfile and zlib were seen to raise, or document, for damaged files.
_DAMAGED = (
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_array_file(path: Path) -> Dataset:
    """Loads a data set from a .npy file, or from a .npz file of one to three arrays."""
    with open_file(path) as file:
        arrays = _read_npy(file, path) if _is_npy(file, path) else _read_npz(file, path)
    splits, rule = _split(arrays, path)
    provenance = describe(
        source=f"array file {path}", files=[record_file(path)], rule=rule, splits=splits
    )
    return Dataset(path.name, *splits, provenance)


def _is_npy(file: BinaryIO, path: Path) -> bool:
    start = file.read(len(_NPY_MAGIC))
    file.seek(0)
    # numpy takes a file that begins otherwise for a pickle, and would say so.
    if start == _NPY_MAGIC or start.startswith(_ZIP_MAGIC):
        return start == _NPY_MAGIC
    raise DataError(
        f"{path} is neither a .npy nor a .npz file: expected it to begin with "
        f"{_NPY_MAGIC!r} or {_ZIP_MAGIC!r}, got {start!r}; save it with numpy.save or numpy.savez."
    )


def _read_npy(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    label = str(path)
    with _numpy_errors(label):
        array = np.load(file, allow_pickle=False)
    return {"array": _to_rows(array, label=label)}


def _read_npz(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    with _numpy_errors(str(path)):
        members = np.load(file, allow_pickle=False)
    with members:
        _check_keys(members.files, path)
        return {key: _read_member(members, key, path) for key in members.files}


def _read_member(members: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    label = f"{path}[{key}]"
    with _numpy_errors(label):
        array = members[key]
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{label} is not a numpy array: expected a .npz file that numpy.savez wrote."
        )
    return _to_rows(array, label=label)


def _check_keys(keys: Sequence[str], path: Path) -> None:
    if len(keys) == 1 or set(keys) in ({"train", "validation", "test"}, {"train", "test"}):
        return
    found = ", ".join(sorted(keys)) or "none"
    raise DataError(
        f"{path}: expected the keys train, validation and test, or train and test, "
        f"or exactly one array, got {found}; save it again with those keys."
    )


def _to_rows(array: np.ndarray, *, label: str) -> np.ndarray:
    if array.ndim == 0:
        raise DataError(f"{label}: expected an array of rows, of shape (n, ...), got shape ().")
    return to_supported(array, label=label)


def _split(arrays: dict[str, np.ndarray], path: Path) -> tuple[Splits, str]:
    match arrays:
        case {"train": train, "validation": validation, "test": test}:
            return Splits(train, validation, test), "as the keys of the file"
        case {"train": train, "test": test}:
            return hold_out_last_sixth(train, test, label=f"{path}[train]"), SIXTH_RULE
        case _:
            (array,) = arrays.values()
            return split_in_tenths(array, label=str(path)), TENTHS_RULE


@contextmanager
def _numpy_errors(label: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{label} is an object array, which only pickle can read, and pickle runs code "
                "from the file; save a plain array instead: "
                "numpy.save(path, numpy.stack(rows).astype('float32'))."
            ) from error
        raise DataError(
            f"{label} cannot be read, the file is truncated or corrupt ({error}); "
            "save or download it again."
        ) from error
