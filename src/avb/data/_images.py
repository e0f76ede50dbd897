"""Folders of image files."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from avb._errors import DataError
from avb.data._dataset import Dataset
from avb.data._files import FileRecord, is_folder, list_folder, read_file
from avb.data._provenance import describe
from avb.data._splits import TENTHS_RULE, Splits, split_in_tenths

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".gif", ".tif")

# PIL chooses the decoder by content, not by name: these are what the suffixes promise, and
# leave out formats such as EPS, whose decoder runs another program.
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "GIF", "TIFF")

_GREY_MODES = ("1", "L", "LA")
_PALETTE_MODES = ("P", "PA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class _Images(NamedTuple):
    """The images of one folder, and the record of their files."""

    pixels: np.ndarray
    record: FileRecord


def load_image_folder(folder: Path) -> Dataset:
    """Loads a data set from a folder of images of one size.

    Sub-folders `train`, `validation` (or `val`) and `test` are the splits if `train` exists.
    Grey images become rows of shape `(H, W)`, others `(H, W, 3)`; of a file with several
    frames the first is taken.
    """
    if is_folder(folder / "train"):
        parts = [_read_folder(subfolder) for subfolder in _split_folders(folder)]
        splits, rule = Splits(*(part.pixels for part in parts)), "as the sub-folders"
    else:
        parts = [_read_folder(folder)]
        splits, rule = split_in_tenths(parts[0].pixels, label=str(folder)), TENTHS_RULE
    provenance = describe(
        source=f"image folder {folder}",
        files=[part.record for part in parts],
        rule=rule,
        splits=splits,
    )
    return Dataset(folder.resolve().name, *splits, provenance)


def _split_folders(folder: Path) -> tuple[Path, Path, Path]:
    validation = next((name for name in ("validation", "val") if is_folder(folder / name)), None)
    if validation is None or not is_folder(folder / "test"):
        raise DataError(
            f"{folder}: expected the sub-folders train, validation (or val) and test, "
            f"got {', '.join(name for name in list_folder(folder) if is_folder(folder / name))}; "
            "add what is missing, or put all images into one folder to have them split."
        )
    return folder / "train", folder / validation, folder / "test"


def _read_folder(folder: Path) -> _Images:
    paths = _image_paths(folder)
    sums = hashlib.sha256()
    size = 0
    pixels = np.empty(0, np.uint8)
    for i, path in enumerate(paths):
        content = read_file(path)
        image = _to_pixels(_decode(content, path), path)
        if i == 0:
            pixels = np.empty((len(paths), *image.shape), np.uint8)
        _check_shape(image.shape, pixels.shape[1:], path)
        pixels[i] = image
        size += len(content)
        sums.update(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
    # One record for the folder, in which `sha256` is that of the output of `sha256sum` over
    # the files: a record for each would outweigh everything else in a report.
    name = f"{folder.name} ({len(paths)} images)"
    return _Images(pixels, FileRecord(name=name, sha256=sums.hexdigest(), bytes=size))


def _image_paths(folder: Path) -> list[Path]:
    # Hidden files are left out: macOS puts a `._x.png` that is no image beside each `x.png`.
    paths = [
        folder / name
        for name in list_folder(folder)
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    if not paths:
        raise DataError(f"{folder} holds no images: expected {', '.join(IMAGE_SUFFIXES)} files.")
    return paths


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...], path: Path) -> None:
    if shape != expected:
        raise DataError(
            f"{path}: expected an image of {_describe(expected)} as in the files before it, "
            f"got {_describe(shape)}; give all images one size and mode."
        )


def _decode(content: bytes, path: Path) -> "Image":
    # PIL takes time to import, which only image folders should cost.
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
        image.load()
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is not an image in a known format; replace or remove it."
        ) from error
    # A damaged file makes PIL raise nearly anything: SyntaxError for PNG, TypeError for TIFF.
    except Exception as error:
        raise DataError(
            f"{path} cannot be decoded, it is truncated, corrupt or too large ({error}); "
            "replace or remove it."
        ) from error
    return image


def _to_pixels(image: "Image", path: Path) -> np.ndarray:
    if image.mode in _GREY_MODES:
        return np.asarray(image.convert("L"))
    if image.mode in _PALETTE_MODES:
        # By way of RGBA, since PIL warns of a palette with transparency otherwise.
        return np.asarray(image.convert("RGBA").convert("RGB"))
    if image.mode in _COLOUR_MODES:
        return np.asarray(image.convert("RGB"))
    raise DataError(
        f"{path}: expected an 8-bit grey or colour image, got mode {image.mode}; save it as 8-bit."
    )


def _describe(shape: tuple[int, ...]) -> str:
    height, width, *channels = shape
    return f"{width}x{height} {'RGB' if channels else 'grey'}"
