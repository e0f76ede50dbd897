"""Images in the IDX format of MNIST, plain or gzipped."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from avb._errors import DataError
from avb.data._files import read_file

_HEADER = struct.Struct(">IIII")
_IMAGE_MAGIC = 0x00000803
_LABEL_MAGIC = 0x00000801
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx_images(path: Path) -> np.ndarray:
    """Reads an IDX file of images as uint8 of shape `(n, rows, columns)`."""
    content = read_file(path)
    if path.suffix == ".gz":
        content = _decompress(content, path)
    _check_magic(content, path)
    if len(content) < _HEADER.size:
        raise DataError(
            f"{path} is truncated: expected a header of {_HEADER.size} bytes, "
            f"got {len(content)}; download it again."
        )
    _, n, rows, columns = _HEADER.unpack_from(content)
    if n * rows * columns == 0:
        raise DataError(
            f"{path} holds no pixels: expected at least one image, "
            f"got {n} images of {rows}x{columns}; download it again."
        )
    _check_size(len(content), _HEADER.size + n * rows * columns, f"{n} images", path)
    return np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(n, rows, columns)


def _decompress(content: bytes, path: Path) -> bytes:
    if not content.startswith(_GZIP_MAGIC):
        raise DataError(
            f"{path} is not gzipped though its name ends in .gz: expected it to begin with "
            f"{_GZIP_MAGIC.hex()}, got {content[:2].hex()}; if it is already unpacked, rename it "
            "without .gz, else download it again."
        )
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise DataError(
            f"{path} is truncated: its gzip stream ends too early; download it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is corrupt gzip ({error}); download it again.") from error


def _check_magic(content: bytes, path: Path) -> None:
    expected = f"expected the image magic number 0x{_IMAGE_MAGIC:08x}"
    if content.startswith(_GZIP_MAGIC):
        raise DataError(f"{path}: {expected}, got a gzip file; add .gz to its name.")
    magic = int.from_bytes(content[:4], "big")
    if magic == _LABEL_MAGIC:
        raise DataError(
            f"{path} is a label file: {expected}, got 0x{magic:08x}; put the image file there."
        )
    if magic != _IMAGE_MAGIC:
        raise DataError(
            f"{path} is not an IDX file of images: {expected}, got 0x{magic:08x}; "
            "download it again."
        )


def _check_size(actual: int, expected: int, what: str, path: Path) -> None:
    if actual < expected:
        raise DataError(
            f"{path} is truncated: expected {expected} bytes for {what}, got {actual}; "
            "download it again."
        )
    if actual > expected:
        raise DataError(
            f"{path} has extra bytes at its end: expected {expected} bytes for {what}, "
            f"got {actual}; download it again."
        )
