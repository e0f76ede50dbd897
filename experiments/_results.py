"""Where experiments keep their results: one JSON file a run, one Markdown table an experiment."""

import json
import os
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def write_json(path: Path, content: dict) -> None:
    """Write a result at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A GitHub-flavoured table, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
