import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from test_data_helpers import (
    TEST,
    TRAIN,
    Bad,
    assert_refused,
    idx_bytes,
    random_images,
    write_idx_pair,
)

from avb.data import load_dataset

SHARED = Path(__file__).parents[2].parent / "shared/data"

IMAGES = random_images(12)
GOOD = idx_bytes(IMAGES)
PACKED = gzip.compress(GOOD, mtime=0)


def plain(content: bytes):
    return lambda folder: (folder / TRAIN).write_bytes(content)


def packed(content: bytes):
    return lambda folder: (folder / f"{TRAIN}.gz").write_bytes(content)


def bad_crc(content: bytes) -> bytes:
    return content[:-8] + bytes([content[-8] ^ 0xFF]) + content[-7:]


BAD = [
    Bad(
        "no training file",
        lambda folder: None,
        "{dir} holds no train-images-idx3-ubyte[.gz]: expected train-images-idx3-ubyte and "
        "t10k-images-idx3-ubyte, plain or gzipped (.gz); download what is missing, or correct "
        "data_dir (--data-dir).",
    ),
    Bad(
        "empty file",
        plain(b""),
        "{dir}/train-images-idx3-ubyte is empty (0 bytes); copy or download it again.",
    ),
    Bad(
        "folder in place of the file",
        lambda folder: (folder / TRAIN).mkdir(),
        "{dir}/train-images-idx3-ubyte: expected a file, got a folder.",
    ),
    Bad(
        "truncated gzip",
        packed(PACKED[:-20]),
        "{dir}/train-images-idx3-ubyte.gz is truncated: its gzip stream ends too early; "
        "download it again.",
    ),
    Bad(
        "gzip with a bad CRC",
        packed(bad_crc(PACKED)),
        "{dir}/train-images-idx3-ubyte.gz is corrupt gzip (CRC check failed…); download it again.",
    ),
    Bad(
        "gzip with a bad stream",
        packed(PACKED[:10] + b"\xff" * 20 + PACKED[30:]),
        "{dir}/train-images-idx3-ubyte.gz is corrupt gzip (…); download it again.",
    ),
    Bad(
        "not gzip though named so",
        packed(GOOD),
        "{dir}/train-images-idx3-ubyte.gz is not gzipped though its name ends in .gz: expected "
        "it to begin with 1f8b, got 0000; if it is already unpacked, rename it without .gz, "
        "else download it again.",
    ),
    Bad(
        "gzip though not named so",
        plain(PACKED),
        "{dir}/train-images-idx3-ubyte: expected the image magic number 0x00000803, "
        "got a gzip file; add .gz to its name.",
    ),
    Bad(
        "wrong magic number",
        plain(idx_bytes(IMAGES, magic=0xD03)),
        "{dir}/train-images-idx3-ubyte is not an IDX file of images: expected the image magic "
        "number 0x00000803, got 0x00000d03; download it again.",
    ),
    Bad(
        "label file",
        plain(idx_bytes(IMAGES, magic=0x801)),
        "{dir}/train-images-idx3-ubyte is a label file: expected the image magic number "
        "0x00000803, got 0x00000801; put the image file there.",
    ),
    Bad(
        "half a header",
        plain(GOOD[:10]),
        "{dir}/train-images-idx3-ubyte is truncated: expected a header of 16 bytes, got 10; "
        "download it again.",
    ),
    Bad(
        "fewer bytes than promised",
        plain(GOOD[:-1]),
        "{dir}/train-images-idx3-ubyte is truncated: expected 256 bytes for 12 images, got 255; "
        "download it again.",
    ),
    Bad(
        "more bytes than promised",
        plain(GOOD + b"xyz"),
        "{dir}/train-images-idx3-ubyte has extra bytes at its end: expected 256 bytes for "
        "12 images, got 259; download it again.",
    ),
    Bad(
        "zero images",
        plain(idx_bytes(IMAGES[:0])),
        "{dir}/train-images-idx3-ubyte holds no pixels: expected at least one image, "
        "got 0 images of 5x4; download it again.",
    ),
    Bad(
        "one training image",
        plain(idx_bytes(IMAGES[:1])),
        "{dir}/train-images-idx3-ubyte: expected at least 2 training rows to split into train "
        "and validation, got 1.",
    ),
    Bad(
        "training images of another size",
        plain(idx_bytes(random_images(12, (5, 5)))),
        "mnist, test split: expected rows of shape (5, 5) as in the train split, got (5, 4).",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_file_gives_a_clear_message(bad: Bad, tmp_path: Path):
    (tmp_path / TEST).write_bytes(idx_bytes(IMAGES))
    bad.write(tmp_path)
    assert_refused(bad.message, tmp_path, "mnist", tmp_path)


def test_missing_test_file(tmp_path: Path):
    (tmp_path / TRAIN).write_bytes(GOOD)
    message = (
        "{dir} holds no t10k-images-idx3-ubyte[.gz]: expected train-images-idx3-ubyte and "
        "t10k-images-idx3-ubyte, plain or gzipped (.gz); download what is missing, or correct "
        "data_dir (--data-dir)."
    )
    assert_refused(message, tmp_path, "mnist", tmp_path)


def test_no_folder_given(tmp_path: Path):
    message = (
        "fashion-mnist needs data_dir (--data-dir): the folder that holds train-images-idx3-ubyte "
        "and t10k-images-idx3-ubyte, plain or gzipped (.gz); got none."
    )
    assert_refused(message, tmp_path, "fashion-mnist")


def test_missing_folder(tmp_path: Path):
    message = "{dir}/nowhere does not exist; check the path."
    assert_refused(message, tmp_path, "mnist", tmp_path / "nowhere")


def test_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / TRAIN).write_bytes(GOOD)
    message = "{dir}/train-images-idx3-ubyte: expected a folder, got a file."
    assert_refused(message, tmp_path, "mnist", tmp_path / TRAIN)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object):
        raise PermissionError(13, "Permission denied")

    write_idx_pair(tmp_path, train=IMAGES, test=IMAGES)
    # Not by chmod, which does not bind the superuser that tests may run as.
    monkeypatch.setattr(Path, "open", refuse)
    message = (
        "{dir}/train-images-idx3-ubyte cannot be read: permission denied; make it readable first."
    )
    assert_refused(message, tmp_path, "mnist", tmp_path)


def test_plain_and_gzipped_files_round_trip(tmp_path: Path):
    test = random_images(4, seed=1)
    write_idx_pair(tmp_path, train=IMAGES, test=test)
    dataset = load_dataset("mnist", data_dir=tmp_path)
    assert dataset.name == "mnist"
    assert dataset.train.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train, IMAGES[:10])
    np.testing.assert_array_equal(dataset.validation, IMAGES[10:])
    np.testing.assert_array_equal(dataset.test, test)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_dotted_spelling_is_accepted(suffix: str, tmp_path: Path):
    for part in ("train", "t10k"):
        content = PACKED if suffix else GOOD
        (tmp_path / f"{part}-images.idx3-ubyte{suffix}").write_bytes(content)
    dataset = load_dataset("fashion-mnist", data_dir=str(tmp_path))
    np.testing.assert_array_equal(dataset.test, IMAGES)


def test_provenance_identifies_the_files(tmp_path: Path):
    write_idx_pair(tmp_path, train=IMAGES, test=IMAGES)
    provenance = load_dataset("mnist", data_dir=tmp_path).provenance
    assert json.loads(json.dumps(provenance)) == {
        "source": f"mnist, IDX files in {tmp_path}",
        "files": [
            {
                "name": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in (tmp_path / TRAIN, tmp_path / f"{TEST}.gz")
        ],
        "split": "first 5/6 of the training rows / last 1/6 of the training rows / test rows",
        "sizes": {"train": 10, "validation": 2, "test": 12},
    }


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files_have_the_published_sizes(name: str):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the files of {name} are not on this machine")
    dataset = load_dataset(name, data_dir=SHARED / name)
    assert dataset.train.shape == (50_000, 28, 28)
    assert dataset.validation.shape == (10_000, 28, 28)
    assert dataset.test.shape == (10_000, 28, 28)
    assert dataset.train.dtype == np.uint8


def test_real_mnist_has_the_published_pixels():
    if not (SHARED / "mnist").is_dir():
        pytest.skip("the files of mnist are not on this machine")
    dataset = load_dataset("mnist", data_dir=SHARED / "mnist")
    train = np.concatenate([dataset.train, dataset.validation])
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    published = "6bbc9ace898e44ae57da46a324031adb"
    assert hashlib.md5(header + train.tobytes()).hexdigest() == published
