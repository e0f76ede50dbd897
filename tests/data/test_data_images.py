import hashlib
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_helpers import Bad, assert_refused, random_images

from avb._errors import DataError
from avb.data import Dataset, load_dataset

GREY = random_images(6)
COLOUR = random_images(6, (5, 4, 3))


def write_images(folder: Path, images: np.ndarray, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}{suffix}")


def rows(dataset: Dataset) -> set[bytes]:
    splits = (dataset.train, dataset.validation, dataset.test)
    return {row.tobytes() for row in np.concatenate(splits)}


def png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def extra(content: bytes):
    return lambda folder: (folder / "zzz.png").write_bytes(content)


DAMAGED = "cannot be decoded, it is truncated, corrupt or too large (…); replace or remove it."
LARGE = png(random_images(1, (64, 64))[0])

BAD = [
    Bad(
        "truncated",
        extra(LARGE[:2000]),
        "{dir}/zzz.png " + DAMAGED,
    ),
    Bad(
        "corrupt",
        extra(LARGE[:41] + b"\xff\xff" + LARGE[43:]),
        "{dir}/zzz.png " + DAMAGED,
    ),
    Bad(
        "no image",
        extra(b"hello"),
        "{dir}/zzz.png is not an image in a known format; replace or remove it.",
    ),
    Bad(
        "an EPS program",
        extra(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\n"),
        "{dir}/zzz.png is not an image in a known format; replace or remove it.",
    ),
    Bad("empty", extra(b""), "{dir}/zzz.png is empty (0 bytes); copy or download it again."),
    Bad(
        "folder named as an image",
        lambda folder: (folder / "zzz.png").mkdir(),
        "{dir}/zzz.png: expected a file, got a folder.",
    ),
    Bad(
        "another size",
        extra(png(random_images(1, (5, 6))[0])),
        "{dir}/zzz.png: expected an image of 4x5 grey as in the files before it, got 6x5 grey; "
        "give all images one size and mode.",
    ),
    Bad(
        "another mode",
        extra(png(COLOUR[0])),
        "{dir}/zzz.png: expected an image of 4x5 grey as in the files before it, got 4x5 RGB; "
        "give all images one size and mode.",
    ),
    Bad(
        "16 bits",
        extra(png(np.zeros((5, 4), np.uint16))),
        "{dir}/zzz.png: expected an 8-bit grey or colour image, got mode I;16; save it as 8-bit.",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_image_gives_a_clear_message(bad: Bad, tmp_path: Path):
    write_images(tmp_path, GREY)
    bad.write(tmp_path)
    assert_refused(bad.message, tmp_path, str(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_no_damaged_byte_escapes_as_another_error(suffix: str, tmp_path: Path):
    write_images(tmp_path, GREY[:3], suffix)
    path = tmp_path / f"002{suffix}"
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :])
        try:
            load_dataset(str(tmp_path))
        except DataError as error:
            assert path.name in str(error)  # noqa: PT017


def test_folder_without_images(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    message = "{dir} holds no images: expected .png, .jpg, .jpeg, .bmp, .pgm, .gif, .tif files."
    assert_refused(message, tmp_path, str(tmp_path))


def test_folder_with_two_images(tmp_path: Path):
    write_images(tmp_path, GREY[:2])
    message = "{dir}: expected at least 3 rows to split into train, validation and test, got 2."
    assert_refused(message, tmp_path, str(tmp_path))


def test_missing_sub_folder(tmp_path: Path):
    write_images(tmp_path / "train", GREY)
    write_images(tmp_path / "val", GREY)
    message = (
        "{dir}: expected the sub-folders train, validation (or val) and test, got train, val; "
        "add what is missing, or put all images into one folder to have them split."
    )
    assert_refused(message, tmp_path, str(tmp_path))


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_folder_round_trips(suffix: str, images: np.ndarray, tmp_path: Path):
    write_images(tmp_path, images, suffix)
    dataset = load_dataset(str(tmp_path))
    assert dataset.name == tmp_path.name
    assert dataset.data_shape == images.shape[1:]
    assert dataset.train.dtype == np.uint8
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4, 1, 1)
    assert rows(dataset) == {image.tobytes() for image in images}


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [(".pgm", (5, 4)), (".jpg", (5, 4)), (".jpeg", (5, 4)), (".gif", (5, 4, 3))],
)
def test_other_formats_are_read(suffix: str, shape: tuple[int, ...], tmp_path: Path):
    write_images(tmp_path, np.full((3, 5, 4), 128, np.uint8), suffix)
    dataset = load_dataset(str(tmp_path))
    assert dataset.data_shape == shape
    assert dataset.test.mean() == pytest.approx(128, abs=1)


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_sub_folders_are_the_splits(validation: str, tmp_path: Path):
    write_images(tmp_path / "train", GREY[:3])
    write_images(tmp_path / validation, GREY[3:4])
    write_images(tmp_path / "test", GREY[4:])
    dataset = load_dataset(str(tmp_path))
    np.testing.assert_array_equal(dataset.train, GREY[:3])
    np.testing.assert_array_equal(dataset.validation, GREY[3:4])
    np.testing.assert_array_equal(dataset.test, GREY[4:])
    assert dataset.provenance["split"] == "as the sub-folders"
    assert [file["name"] for file in dataset.provenance["files"]] == [
        "train (3 images)",
        f"{validation} (1 images)",
        "test (2 images)",
    ]


def test_hidden_and_other_files_are_left_out(tmp_path: Path):
    write_images(tmp_path, GREY)
    (tmp_path / "._000.png").write_bytes(b"macOS")
    (tmp_path / "labels.csv").write_bytes(b"0,1")
    assert sum(load_dataset(str(tmp_path)).provenance["sizes"].values()) == len(GREY)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("1", ()), ("LA", ()), ("RGBA", (3,)), ("P", (3,))],
)
def test_alpha_and_palette_are_converted(mode: str, shape: tuple[int, ...], tmp_path: Path):
    for i, image in enumerate(COLOUR):
        converted = Image.fromarray(image).convert(mode)
        if mode == "P":
            converted.info["transparency"] = bytes(range(256))
        converted.save(tmp_path / f"{i}.png")
    assert load_dataset(str(tmp_path)).data_shape == (5, 4, *shape)


def test_alpha_leaves_the_colours(tmp_path: Path):
    alpha = np.zeros((6, 5, 4, 1), np.uint8)
    write_images(tmp_path, np.concatenate([COLOUR, alpha], axis=-1))
    assert rows(load_dataset(str(tmp_path))) == {image.tobytes() for image in COLOUR}


def test_palette_leaves_the_colours(tmp_path: Path):
    for i, image in enumerate(COLOUR):
        Image.fromarray(image).quantize(20).save(tmp_path / f"{i}.png")
    assert rows(load_dataset(str(tmp_path))) == {image.tobytes() for image in COLOUR}


def test_provenance_is_that_of_sha256sum(tmp_path: Path):
    write_images(tmp_path, GREY)
    names = sorted(os.listdir(tmp_path))
    sums = "".join(
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    )
    assert load_dataset(str(tmp_path)).provenance["files"] == [
        {
            "name": f"{tmp_path.name} (6 images)",
            "sha256": hashlib.sha256(sums.encode()).hexdigest(),
            "bytes": sum((tmp_path / name).stat().st_size for name in names),
        }
    ]
