import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_data_helpers import Bad, assert_refused, random_images

from avb._errors import DataError
from avb.data import load_dataset

ROWS = random_images(20)
FLOATS = np.linspace(-1, 1, 40).reshape(10, 4)


def npy(array: np.ndarray):
    return lambda folder: np.save(folder / "x.npy", array, allow_pickle=True)


def npz(**arrays: np.ndarray):
    return lambda folder: np.savez(folder / "x.npz", allow_pickle=True, **arrays)


def cut(name: str, array: np.ndarray, size: int):
    def write(folder: Path) -> None:
        save = np.save if name.endswith("npy") else np.savez
        save(folder / name, array)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:size])

    return write


def foreign_member(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "not an array")


def with_value(index: tuple[int, ...], value: float) -> np.ndarray:
    array = FLOATS.copy()
    array[index] = value
    array[-1, -1] = value
    return array


KEYS = "expected the keys train, validation and test, or train and test, or exactly one array"
CORRUPT = "cannot be read, the file is truncated or corrupt (…); save or download it again."
OBJECT = (
    "is an object array, which only pickle can read, and pickle runs code from the file; save a "
    "plain array instead: numpy.save(path, numpy.stack(rows).astype('float32'))."
)

BAD_NPY = [
    Bad("missing", lambda folder: None, "{dir}/x.npy does not exist; check the path."),
    Bad(
        "empty",
        lambda folder: (folder / "x.npy").touch(),
        "{dir}/x.npy is empty (0 bytes); copy or download it again.",
    ),
    Bad(
        "folder",
        lambda folder: (folder / "x.npy").mkdir(),
        "{dir}/x.npy: expected a file, got a folder.",
    ),
    Bad(
        "neither format",
        lambda folder: (folder / "x.npy").write_bytes(b"1,2,3\n"),
        "{dir}/x.npy is neither a .npy nor a .npz file: expected it to begin with "
        "b'\\x93NUMPY' or b'PK', got b'1,2,3\\n'; save it with numpy.save or numpy.savez.",
    ),
    Bad("header cut", cut("x.npy", ROWS, 20), "{dir}/x.npy " + CORRUPT),
    Bad("values cut", cut("x.npy", ROWS, 200), "{dir}/x.npy " + CORRUPT),
    Bad("objects", npy(np.array([1, None, "a"], object)), "{dir}/x.npy " + OBJECT),
    Bad(
        "complex",
        npy(np.ones((4, 2), complex)),
        "{dir}/x.npy: expected booleans, integers or floats, got dtype complex128.",
    ),
    Bad(
        "strings",
        npy(np.array(["a", "b", "c"])),
        "{dir}/x.npy: expected booleans, integers or floats, got dtype <U1.",
    ),
    Bad(
        "single value",
        npy(np.array(1.0)),
        "{dir}/x.npy: expected an array of rows, of shape (n, ...), got shape ().",
    ),
    Bad(
        "two rows",
        npy(ROWS[:2]),
        "{dir}/x.npy: expected at least 3 rows to split into train, validation and test, got 2.",
    ),
    Bad(
        "no values",
        npy(np.ones((5, 0))),
        "x.npy, train split: expected at least one row with at least one value, got shape (3, 0).",
    ),
    Bad(
        "large integers",
        npy(np.array([[0], [-5], [2**31]])),
        "{dir}/x.npy: expected integers that int32 can hold, got values from -5 to 2147483648; "
        "rescale them.",
    ),
    Bad(
        "large floats",
        npy(with_value((2, 1), -1e39)),
        "{dir}/x.npy: expected floats that float32 can hold, got magnitudes up to 1e+39; "
        "rescale them.",
    ),
    Bad(
        "NaN",
        npy(with_value((3, 2), np.nan)),
        "{dir}/x.npy: expected finite values, got 2 NaN or infinite, the first at index (3, 2); "
        "remove or replace them.",
    ),
    Bad(
        "infinite",
        npy(with_value((0, 1), -np.inf)),
        "{dir}/x.npy: expected finite values, got 2 NaN or infinite, the first at index (0, 1); "
        "remove or replace them.",
    ),
]

BAD_NPZ = [
    Bad("zip cut", cut("x.npz", ROWS, 300), "{dir}/x.npz " + CORRUPT),
    Bad(
        "objects",
        npz(x=np.array([None, 1], object)),
        "{dir}/x.npz[x] " + OBJECT,
    ),
    Bad(
        "not an array",
        foreign_member,
        "{dir}/x.npz[readme.txt] is not a numpy array: expected a .npz file that numpy.savez "
        "wrote.",
    ),
    Bad("no arrays", npz(), "{dir}/x.npz: " + KEYS + ", got none; save it again with those keys."),
    Bad(
        "other keys",
        npz(x_train=ROWS, x_test=ROWS),
        "{dir}/x.npz: " + KEYS + ", got x_test, x_train; save it again with those keys.",
    ),
    Bad(
        "no test",
        npz(train=ROWS, validation=ROWS),
        "{dir}/x.npz: " + KEYS + ", got train, validation; save it again with those keys.",
    ),
    Bad(
        "NaN in one split",
        npz(train=FLOATS, test=with_value((1, 0), np.nan)),
        "{dir}/x.npz[test]: expected finite values, got 2 NaN or infinite, the first at index "
        "(1, 0); remove or replace them.",
    ),
    Bad(
        "empty split",
        npz(train=ROWS, validation=ROWS[:0], test=ROWS),
        "x.npz, validation split: expected at least one row with at least one value, "
        "got shape (0, 5, 4).",
    ),
    Bad(
        "one training row",
        npz(train=ROWS[:1], test=ROWS),
        "{dir}/x.npz[train]: expected at least 2 training rows to split into train and "
        "validation, got 1.",
    ),
    Bad(
        "two dtypes",
        npz(train=ROWS, test=ROWS.astype(np.int64)),
        "x.npz, test split: expected dtype uint8 as in the train split, got int32.",
    ),
]


@pytest.mark.parametrize("bad", BAD_NPY, ids=lambda bad: bad.name)
def test_bad_npy_gives_a_clear_message(bad: Bad, tmp_path: Path):
    bad.write(tmp_path)
    assert_refused(bad.message, tmp_path, str(tmp_path / "x.npy"))


@pytest.mark.parametrize("bad", BAD_NPZ, ids=lambda bad: bad.name)
def test_bad_npz_gives_a_clear_message(bad: Bad, tmp_path: Path):
    bad.write(tmp_path)
    assert_refused(bad.message, tmp_path, str(tmp_path / "x.npz"))


@pytest.mark.parametrize("compressed", [False, True])
def test_no_damaged_byte_escapes_as_another_error(tmp_path: Path, *, compressed: bool):
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, ROWS)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :])
        try:
            load_dataset(str(path))
        except DataError as error:
            assert "x.npz" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.uint8, np.uint8),
        (np.int8, np.int32),
        (np.uint16, np.int32),
        (np.int64, np.int32),
        (np.dtype(">i4"), np.int32),
        (np.float16, np.float32),
        (np.float64, np.float32),
        (np.dtype(">f4"), np.float32),
    ],
)
def test_dtype_is_converted(given: np.dtype, kept: type, tmp_path: Path):
    array = np.arange(12).reshape(6, 2).astype(given)
    np.savez(tmp_path / "x.npz", train=array[:4], validation=array[4:5], test=array[5:])
    dataset = load_dataset(str(tmp_path / "x.npz"))
    assert dataset.train.dtype == kept
    np.testing.assert_array_equal(dataset.train, array[:4])
    np.testing.assert_array_equal(dataset.validation, array[4:5])
    np.testing.assert_array_equal(dataset.test, array[5:])


def test_booleans_become_black_and_white(tmp_path: Path):
    array = np.array([[True, False], [False, True], [True, True]])
    np.savez(tmp_path / "x.npz", train=array[:2], test=array[2:])
    dataset = load_dataset(str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(dataset.train, np.array([[255, 0]], np.uint8))
    np.testing.assert_array_equal(dataset.validation, np.array([[0, 255]], np.uint8))
    assert dataset.test.dtype == np.uint8


@pytest.mark.parametrize("n", [3, 4, 10, 57])
def test_one_array_is_split_80_10_10(n: int, tmp_path: Path):
    array = np.arange(n).astype(np.int32)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", anything=array)
    from_npy = load_dataset(tmp_path / "x.npy")
    from_npz = load_dataset(str(tmp_path / "x.npz"))
    held_out = max(1, n // 10)
    assert len(from_npy.validation) == len(from_npy.test) == held_out
    rows = np.concatenate([from_npy.train, from_npy.validation, from_npy.test])
    np.testing.assert_array_equal(np.sort(rows), array)
    assert from_npy.fingerprint == from_npz.fingerprint
    assert from_npy.provenance["sizes"] == {
        "train": n - 2 * held_out,
        "validation": held_out,
        "test": held_out,
    }


def test_train_and_test_hold_out_the_last_sixth(tmp_path: Path):
    np.savez(tmp_path / "x.npz", train=ROWS[:18], test=ROWS[18:])
    dataset = load_dataset(str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(dataset.train, ROWS[:15])
    np.testing.assert_array_equal(dataset.validation, ROWS[15:18])
    np.testing.assert_array_equal(dataset.test, ROWS[18:])
    assert dataset.data_shape == (5, 4)
