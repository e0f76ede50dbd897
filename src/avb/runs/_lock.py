"""One writer a run folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from avb._errors import RunError
from avb.runs._folder import LOCK, writing


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The system frees it when the process ends, however it ends.

    Raises:
        RunError: Another process holds it, or the folder cannot be written.
    """
    path = folder / LOCK
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(descriptor, folder)
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise RunError(
            f"{folder} is in use by process {holder}: wait for it to end, or stop it with "
            f"'kill {holder}': its checkpoints stay"
        ) from error
