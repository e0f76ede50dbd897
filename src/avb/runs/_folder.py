"""The files of a run folder, and writes that fail with a way out."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avb._errors import RunError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation.json"
EVALUATION_VALUES = "evaluation.npz"
LOCK = "LOCK"


@contextlib.contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into a ``RunError`` that says what is safe."""
    try:
        yield
    except OSError as error:
        raise write_error(what, error.strerror or str(error)) from error


def write_error(what: str | Path, cause: str) -> RunError:
    """The error for a write that failed: a full disk, no permission."""
    return RunError(
        f"{what} could not be written ({cause}); nothing before the run's last checkpoint is "
        "lost: make room or make the folder writable, then go on with 'avb resume', or with "
        "'avb train' where nothing was trained yet"
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file whole or not at all, also when the machine stops.

    Raises:
        RunError: The file cannot be written.
    """
    draft = path.with_name(f"{path.name}.tmp")
    with writing(path):
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Replace a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def contents(folder: Path) -> list[str]:
    """What a folder holds apart from locks and drafts, which a killed process leaves behind."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name != LOCK and not path.name.endswith(".tmp")
    )
