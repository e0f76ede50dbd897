"""Files and folders on disk: read with errors that name the path and the way out."""

import hashlib
from io import BufferedReader
from pathlib import Path
from typing import TypedDict

from avb._errors import DataError


class FileRecord(TypedDict):
    """Which file the data came from, precise enough to recognise it again."""

    name: str
    sha256: str
    bytes: int


def open_file(path: Path) -> BufferedReader:
    """Opens a file that must exist, be readable, and hold at least one byte."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    if not file.read(1):
        file.close()
        raise DataError(f"{path} is empty (0 bytes); copy or download it again.")
    file.seek(0)
    return file


def read_file(path: Path) -> bytes:
    """Reads a whole file, under the conditions of `open_file`."""
    with open_file(path) as file:
        return file.read()


def record_file(path: Path) -> FileRecord:
    """Describes a file by name, SHA-256 and size, without holding it in memory."""
    with open_file(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(name=path.name, sha256=sha256, bytes=file.tell())


def list_folder(folder: Path) -> list[str]:
    """Lists the names in a folder, sorted."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error


def is_folder(path: Path) -> bool:
    """Whether a path is an existing folder."""
    try:
        return path.is_dir()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    match error:
        case FileNotFoundError():
            return DataError(f"{path} does not exist; check the path.")
        case PermissionError():
            return DataError(f"{path} cannot be read: permission denied; make it readable first.")
        case IsADirectoryError():
            return DataError(f"{path}: expected a file, got a folder.")
        case NotADirectoryError():
            return DataError(f"{path}: expected a folder, got a file.")
        case _:
            return DataError(f"{path} cannot be read: {error.strerror or error}.")
