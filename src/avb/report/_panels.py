"""Rows of data side by side: images as a mosaic, all else as line panels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb.report._figure import COLOURS, MUTED, blank

GAP = 1


def is_image(data_shape: tuple[int, ...]) -> bool:
    """Whether data of a shape are grey or colour images."""
    grey = len(data_shape) == 2
    colour = len(data_shape) == 3 and data_shape[-1] in (1, 3)
    return (grey or colour) and min(data_shape[:2]) > 1


def mosaic(data: np.ndarray) -> np.ndarray:
    """Images of shape ``(rows, columns, height, width[, channels])`` as one, with white gaps.

    Values are scaled to [0, 1] over all images together.
    """
    low, high = float(data.min()), float(data.max())
    if not 0 <= low <= high <= 1:
        data = (data - low) / max(high - low, 1e-12)
    data = data.reshape(*data.shape[:4], -1)
    rows, columns, height, width, channels = data.shape
    canvas = np.ones((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels))
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + GAP), j * (width + GAP)
            canvas[top : top + height, left : left + width] = data[i, j]
    return canvas[..., 0] if channels == 1 else canvas


def draw_mosaic(axes: Axes, data: np.ndarray) -> None:
    """Draw images of shape ``(rows, columns, height, width[, channels])``."""
    blank(axes)
    axes.imshow(mosaic(data), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def draw_lines(figure: Figure, data: np.ndarray) -> np.ndarray:
    """Draw data of shape ``(rows, columns, …)`` as curves over their flattened elements.

    Returns:
        The axes, of shape ``(rows, columns)``.
    """
    rows, columns = data.shape[:2]
    curves = data.reshape(rows, columns, -1)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    style = {"marker": "o", "markersize": 2.5} if curves.shape[-1] <= 32 else {"linewidth": 1.0}
    for axes, curve in zip(panels.flat, curves.reshape(rows * columns, -1), strict=True):
        axes.axhline(0, color=MUTED, linewidth=0.5)
        axes.plot(curve, color=COLOURS[0], **style)
        axes.tick_params(labelsize=6)
    figure.supxlabel("element of the datum", fontsize=8)
    figure.supylabel("value", fontsize=8)
    return panels
