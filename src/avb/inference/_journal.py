"""What a run leaves in its folder on the way, so that it can be killed at any moment and go on."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from avb._errors import RunError
from avb.inference._npz import UNREADABLE, Arrays, read_arrays, write_arrays

FORMAT = 1
IDENTITY = "run.json"
# The parts that change while a run trains: a mixture, and another method's posterior.
TRAINING = "training"
METHOD = "method"


class Journal:
    """Parts of a run in files of one folder; without a folder, nothing is kept.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._began = time.perf_counter()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier parts included as far as they were kept."""
        return self._before + time.perf_counter() - self._began

    def path(self, name: str) -> Path:
        """The file of a part."""
        assert self.folder is not None
        return self.folder / f"{name}.npz"

    def has(self, name: str) -> bool:
        """Whether a part is there."""
        return self.folder is not None and self.path(name).exists()

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep a part, in the place of what there was of it.

        Raises:
            RunError: It cannot be written, for example because the disk is full.
        """
        if self.folder is not None:
            write_arrays(self.path(name), arrays, {"seconds": self.seconds})

    def load(self, name: str) -> Arrays | None:
        """A part, if it is there and can be read; a damaged one is told of, and made again."""
        if not self.has(name):
            return None
        try:
            arrays, about = read_arrays(self.path(name))
        except UNREADABLE as error:
            warnings.warn(
                f"{self.path(name)} cannot be read ({error}); this part of the run is done again",
                stacklevel=2,
            )
            return None
        self._before = max(self._before, about["seconds"])
        return arrays

    def kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """A part from its file; or made, and kept."""
        arrays = self.load(name)
        if arrays is None:
            arrays = make()
            self.save(name, arrays)
        return arrays

    def forget(self, name: str) -> None:
        """Delete a part."""
        if self.has(name):
            self.path(name).unlink()


@contextlib.contextmanager
def open_journal(
    folder: str | os.PathLike | None, identity: Callable[[], dict[str, str]]
) -> Iterator[Journal]:
    """The journal of a run, which no other process writes to meanwhile.

    Args:
        folder: Made if need be; ``None`` for a run that keeps nothing.
        identity: What the run is of, by name.

    Raises:
        RunError: The folder holds a run of something else, or other files, is in use by
            another process or cannot be written.
    """
    if folder is None:
        yield Journal(None)
        return
    from avb.runs._lock import locked

    path = Path(folder)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        _expect_same(path, identity())
        yield Journal(path)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} could not be written ({error.strerror or error}): make room, make it "
            "writable or give another folder"
        ) from error


def _expect_same(path: Path, identity: dict[str, str]) -> None:
    """Note what a new run is of; of one that was begun, refuse all others."""
    from avb.runs._folder import contents, write_json

    file, found = path / IDENTITY, contents(path)
    if found in ([], [IDENTITY]):
        # Of a run that kept nothing, nothing can be mixed up.
        with _writing(path):
            write_json(file, {"format": FORMAT, "of": identity})
        return
    if IDENTITY not in found:
        raise RunError(
            f"{path} holds other files ({', '.join(found[:3])}{', …' if found[3:] else ''}): "
            "expected an empty or a new folder, or that of an earlier run; give another folder"
        )
    there = _read_identity(file)
    if there["format"] != FORMAT:
        raise RunError(
            f"{file}: expected format {FORMAT}, got {there['format']}; it was written by another "
            "version of avb: give another folder"
        )
    differing = differences(there["of"], identity)
    if differing:
        raise RunError(
            f"{path} holds the run of something else ({'; '.join(differing)}): give another "
            "folder, or delete it to begin anew"
        )


def _read_identity(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read ({error}): give another folder, or delete it to begin anew"
        ) from error


def differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    """What two runs are not both of, in words."""
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name} is {there.get(name, 'not given')} there and {here.get(name, 'not given')} here"
        for name in names
        if there.get(name) != here.get(name)
    ]
