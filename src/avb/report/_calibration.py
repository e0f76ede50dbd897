"""Pictures of diagnostics: ranks against uniform ones, draws over reference draws."""

import math
import os
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from avb.diagnostics import Calibration
from avb.diagnostics._draws import check_pair, coordinate_names
from avb.diagnostics._uniformity import LEVEL, rank_bins
from avb.report._figure import COLOURS, INK, blank, figure

SHOWN_QUANTITIES = 12
SHOWN_COORDINATES = 5
SHOWN_DRAWS = 1500
COLUMNS = 4
MASSES = (0.95, 0.8, 0.5, 0.2)
BAND = "#cbd5df"
SHADES = ("#dde4eb", "#c3cfda", "#a3b4c4", "#7f95a9")


def _draw_histogram(axes: Axes, ranks: np.ndarray, largest: int) -> None:
    """Counts in bins over those expected, on the band of uniform ranks."""
    edges = rank_bins(len(ranks), largest)
    expected = len(ranks) * np.diff(edges) / (largest + 1)
    counts, _ = np.histogram(ranks, edges - 0.5)
    tail = LEVEL / (2 * len(expected))
    low, high = (
        scipy.stats.binom.ppf(level, len(ranks), expected / len(ranks)) / expected
        for level in (tail, 1 - tail)
    )
    axes.stairs(high, edges, baseline=low, fill=True, color=BAND, zorder=1)
    height = counts / expected
    axes.stairs(height, edges, baseline=0, fill=True, color=COLOURS[0], alpha=0.2, zorder=2)
    axes.stairs(height, edges, baseline=0, color=COLOURS[0], linewidth=1.2, zorder=3)
    axes.axhline(1, color=INK, linewidth=0.7, linestyle=":", zorder=4)
    axes.set(xlim=(0, largest + 1), ylim=(0, 1.1 * max(height.max(), high.max())))


def _draw_distribution(axes: Axes, calibration: Calibration, column: int) -> None:
    """The ranks' distribution function less that of uniform ranks, on its band."""
    points, largest = calibration.uniformity.points, calibration.draws
    uniform = (points + 1) / (largest + 1)
    low, high = calibration.uniformity.band - uniform[None, :]
    ends = np.concatenate([[0], points + 1, [largest + 1]])

    def pinned(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], values, [0.0]])

    ranks = calibration.ranks[:, column]
    shares = np.mean(ranks[:, None] <= points, axis=0)
    axes.fill_between(ends, pinned(low), pinned(high), color=BAND, linewidth=0, zorder=1)
    axes.plot(ends, pinned(shares - uniform), color=COLOURS[0], linewidth=1.2, zorder=3)
    axes.axhline(0, color=INK, linewidth=0.7, linestyle=":", zorder=2)
    axes.set(xlim=(0, largest + 1))


def _shown(calibration: Calibration) -> np.ndarray:
    """Columns to draw: all, or those furthest from uniform, in their own order."""
    order = np.argsort(calibration.uniformity.ecdf_p_values, kind="stable")
    return np.sort(order[:SHOWN_QUANTITIES])


def draw_rank_histograms(
    calibration: Calibration, path: str | os.PathLike, names: Sequence[str] | None = None
) -> None:
    """Show the ranks of simulation-based calibration against uniform ones.

    For each quantity a histogram, on a band that holds all of its bins with probability
    95% if the ranks are uniform, and below it the distribution function less the uniform
    one, on its simultaneous 95% band. Of more than 12 quantities, those furthest from
    uniform are shown.

    Args:
        calibration: Result of the calibration.
        path: Where to write the PNG file.
        names: Names of the quantities, instead of the calibration's own.

    Raises:
        ConfigError: Another number of names than of quantities.
        RunError: The file cannot be written.
    """
    given = calibration.names if names is None else names
    names = coordinate_names(given, calibration.ranks.shape[1])
    shown = _shown(calibration)
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    simulations = len(calibration.ranks)
    verdict = "no departure from uniform" if calibration.calibrated else "NOT uniform"
    title = f"{simulations:,} simulations, {calibration.draws} draws each: {verdict}"
    if len(shown) < len(names):
        title += f"\nthe {len(shown)} of {len(names)} quantities furthest from uniform"
    title += "\ngrey: all of a panel lies there with probability 95% if uniform"
    with figure(path, max(4.6, 0.6 + 2.3 * columns), 0.9 + 2.7 * rows) as drawn:
        drawn.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left")
        panels = drawn.subplots(2 * rows, columns, sharex=True, squeeze=False)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            pair = panels[2 * row, column], panels[2 * row + 1, column]
            if place >= len(shown):
                for axes in pair:
                    blank(axes)
                continue
            _draw_quantity(pair, calibration, shown[place], names[shown[place]])
            if column == 0:
                pair[0].set_ylabel("count / expected")
                pair[1].set_ylabel("ECDF − uniform")
        drawn.align_ylabels()
        drawn.supxlabel("rank of the true value among the draws", fontsize=9, color=INK)


def _draw_quantity(
    pair: tuple[Axes, Axes], calibration: Calibration, column: int, name: str
) -> None:
    p_value = calibration.uniformity.adjusted_p_values[column]
    said = f"p = {p_value:.2f}" if p_value >= 0.01 else f"p = {p_value:.1g}"
    colour = COLOURS[4] if p_value < LEVEL else INK
    pair[0].set_title(f"{name}   {said}", fontsize=9, color=colour)
    _draw_histogram(pair[0], calibration.ranks[:, column], calibration.draws)
    _draw_distribution(pair[1], calibration, column)
    for axes in pair:
        axes.tick_params(labelsize=7, labelbottom=True)
        axes.yaxis.set_major_locator(MaxNLocator(4))


def draw_two_samples(
    draws: ArrayLike,
    reference: ArrayLike,
    path: str | os.PathLike,
    names: Sequence[str] | None = None,
) -> None:
    """Show draws over reference draws, coordinate by coordinate and pair by pair.

    The first five coordinates at most: on the diagonal histograms, below it the regions of
    highest density of the reference with 20%, 50%, 80% and 95% of its draws, and the draws
    as points. What lies outside a panel is counted in the title.

    Args:
        draws: Shape ``(n, d)``.
        reference: Shape ``(m, d)``.
        path: Where to write the PNG file.
        names: Names of the coordinates.

    Raises:
        ConfigError: Another number of names than of coordinates.
        DataError: Arrays that do not fit each other, or are not finite.
        RunError: The file cannot be written.
    """
    draws, reference = check_pair(draws, reference)
    names = coordinate_names(names, draws.shape[1])
    dim = min(draws.shape[1], SHOWN_COORDINATES)
    limits = [_limits(draws[:, i], reference[:, i]) for i in range(dim)]
    ranged = zip(limits, draws.T[:dim], strict=True)
    inside = np.all([(low <= c) & (c <= high) for (low, high), c in ranged], axis=0)
    title = f"{len(draws):,} draws over {len(reference):,} reference draws"
    if dim < len(names):
        title += f", first {dim} of {len(names)} coordinates"
    if not inside.all():
        title += f"\n{np.mean(~inside):.2%} of the draws lie outside the panels"
    with figure(path, max(4.6, 0.7 + 1.8 * dim), 0.6 + max(2.6, 1.8 * dim)) as drawn:
        drawn.suptitle(title, fontsize=9, color=INK, x=0.01, ha="left")
        _draw_pairs(drawn, draws, reference, limits, names)


def _draw_pairs(
    drawn: Figure,
    draws: np.ndarray,
    reference: np.ndarray,
    limits: list[tuple[float, float]],
    names: tuple[str, ...],
) -> None:
    dim = len(limits)
    panels = drawn.subplots(dim, dim, squeeze=False)
    for i in range(dim):
        for j in range(dim):
            axes = panels[i, j]
            if j > i:
                blank(axes)
                continue
            if i == j:
                _draw_marginal(axes, draws[:, i], reference[:, i], limits[i])
            else:
                _draw_pair(axes, draws[:, [j, i]], reference[:, [j, i]], limits[j], limits[i])
            axes.set_xlim(limits[j])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=7, labelbottom=i == dim - 1, labelleft=j == 0 and i > 0)
            if i == dim - 1:
                axes.set_xlabel(names[j])
            if j == 0 and i > 0:
                axes.set_ylabel(names[i])
    handles, texts = panels[0, 0].get_legend_handles_labels()
    # One coordinate leaves no empty corner.
    where = panels[0, 0] if dim == 1 else panels[0, -1]
    where.legend(handles, texts, loc="upper right", fontsize=8)


def _limits(draws: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """A range that holds nearly all of the reference and most of the draws."""
    low = min(np.quantile(reference, 0.002), np.quantile(draws, 0.02))
    high = max(np.quantile(reference, 0.998), np.quantile(draws, 0.98))
    margin = 0.05 * (high - low)
    return float(low - margin), float(high + margin)


def _draw_marginal(
    axes: Axes, draws: np.ndarray, reference: np.ndarray, limits: tuple[float, float]
) -> None:
    edges = np.linspace(*limits, 41)
    width = edges[1] - edges[0]

    def density(values: np.ndarray) -> np.ndarray:
        return np.histogram(values, edges)[0] / (len(values) * width)

    axes.stairs(density(reference), edges, fill=True, color=SHADES[2], label="reference")
    axes.stairs(density(draws), edges, color=COLOURS[1], linewidth=1.2, label="draws")
    axes.set(yticks=[])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _draw_pair(
    axes: Axes,
    draws: np.ndarray,
    reference: np.ndarray,
    across: tuple[float, float],
    upward: tuple[float, float],
) -> None:
    counts, *edges = np.histogram2d(*reference.T, bins=60, range=(across, upward))
    density = scipy.ndimage.gaussian_filter(counts, 1.5)
    falling = np.sort(density.ravel())[::-1]
    mass = np.cumsum(falling) / falling.sum()
    levels = [float(falling[np.searchsorted(mass, share)]) for share in MASSES]
    centres = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
    # Equal levels are no contours; they come of very few reference draws.
    unique = sorted(set(levels))
    shades = SHADES[-len(unique) :]
    axes.contourf(*centres, density.T, levels=[*unique, np.inf], colors=shades, zorder=1)
    axes.contour(*centres, density.T, levels=unique, colors=INK, linewidths=0.6, zorder=3)
    step = math.ceil(len(draws) / SHOWN_DRAWS)
    axes.plot(*draws[::step].T, ".", color=COLOURS[1], markersize=1.5, alpha=0.45, zorder=2)
    axes.set(ylim=upward)
    axes.grid(visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4))
