"""Where words and results go: results to stdout, all else to stderr."""

import json
import sys
from typing import Any

from rich.console import Console

# Tables in a file or a pipe are not cut to the 80 columns that Rich would assume.
PLAIN_WIDTH = 140


def errors() -> Console:
    """For progress, warnings and errors."""
    return _console(stderr=True)


def results() -> Console:
    """For what a command was asked for."""
    return _console(stderr=False)


def print_json(document: Any) -> None:
    """Print a result for machines."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
