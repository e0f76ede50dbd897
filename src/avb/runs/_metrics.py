"""metrics.jsonl: one JSON object a report."""

import json
import math
import os
from pathlib import Path

from avb.runs._folder import METRICS, write_bytes, writing

Row = dict[str, float | None]


def append_row(folder: Path, metrics: dict[str, float]) -> None:
    """Add one report. It is on disk before any checkpoint that comes after it.

    Raises:
        RunError: The file cannot be written.
    """
    row = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    path = folder / METRICS
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(folder: Path) -> list[Row]:
    """All reports, up to a line that was cut short."""
    path = folder / METRICS
    rows: list[Row] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def drop_rows_after(folder: Path, step: int) -> None:
    """Drop the reports that training from ``step`` on will make again.

    Raises:
        RunError: The file cannot be written.
    """
    kept = [row for row in read_rows(folder) if (row["step"] or 0) <= step]
    write_bytes(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept).encode())
