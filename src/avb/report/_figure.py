"""Figures of one look, drawn without pyplot: no window, no global state."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb.runs._folder import write_bytes

INK = "#1f2933"
MUTED = "#7b8794"
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c4554d")

_STYLE = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "savefig.dpi": 150,
}


@contextlib.contextmanager
def figure(path: str | os.PathLike, width: float, height: float) -> Iterator[Figure]:
    """A figure of a size in inches, written to ``path`` when the body ends.

    Raises:
        RunError: The file cannot be written.
    """
    with matplotlib.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        content = io.BytesIO()
        drawn.savefig(content, format="png")
    write_bytes(Path(path), content.getvalue())


def blank(axes: Axes) -> None:
    """Axes with nothing but what is drawn into them."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
