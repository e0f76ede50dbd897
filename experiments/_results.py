"""Where experiments keep their results: one JSON file a run, one Markdown table an experiment."""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


def write_json(path: Path, content: dict) -> None:
    """Write a result at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def keep(path: Path, found: dict, text: str) -> None:
    """Write a result, the text of it beside, and print that."""
    write_json(path, found)
    path.with_suffix(".md").write_text(text)
    print(text)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A GitHub-flavoured table, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(values: Iterable[float], digits: int = 2, centre: Callable = np.mean) -> str:
    """Mean, or another centre, and the range of several values, as a cell of a table."""
    values = list(values)
    if not values:
        return "–"
    if not all(map(math.isfinite, values)):
        return "not finite"
    low, high = min(values), max(values)
    # What has diverged has no meaningful decimals.
    show = f".{digits}f" if high < 10_000 else ".1e"
    middle = f"{centre(values):{show}}"
    return middle if len(values) == 1 else f"{middle} ({low:{show}} … {high:{show}})"
