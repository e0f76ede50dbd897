"""The grid as numbers: distances from the best cell, failures, tables and a heat map."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments._grid import CONTRASTS, OBJECTIVES, RATES, STEPS, WIDTHS, Cell, Structure
from experiments._grid_problems import Problem
from experiments._results import markdown_table


@dataclasses.dataclass(frozen=True)
class Summary:
    """One problem's grid.

    Attributes:
        problem: The problem.
        quality: Each cell's mean over seeds, in nats; minus infinity where a run gave up.
        failed: How many of a cell's runs failed.
        runs: How many runs a cell has.
    """

    problem: Problem
    quality: dict[Cell, float]
    failed: dict[Cell, int]
    runs: int

    @classmethod
    def of(cls, problem: Problem, runs: dict[Cell, list[dict]]) -> "Summary":
        """From each cell's runs."""
        values = {cell: np.asarray([worth(run) for run in found]) for cell, found in runs.items()}
        quality = {cell: float(np.mean(found)) for cell, found in values.items()}
        floor = max(quality.values()) - problem.tolerance
        failed = {cell: int(np.sum(found < floor)) for cell, found in values.items()}
        return cls(problem, quality, failed, len(values[problem.default]))

    @property
    def best(self) -> Cell:
        """The cell of the largest mean."""
        return max(self.quality, key=lambda cell: self.quality[cell])

    def below(self, cell: Cell) -> float:
        """Nats below the best cell; not a number for a cell that was not run."""
        return self.quality[self.best] - self.quality.get(cell, np.nan)

    def share(self, keep: Callable[[Cell], bool] = lambda _: True) -> float:
        """Share of the runs without failure, among the cells that are kept."""
        kept = [count for cell, count in self.failed.items() if keep(cell)]
        return 1.0 - sum(kept) / (self.runs * len(kept))


def worth(run: dict) -> float:
    """A run's quality; minus infinity if it gave up or has none."""
    return run["quality"] if not run["gave_up"] and np.isfinite(run["quality"]) else -np.inf


def nats(value: float) -> str:
    """Two decimals, more where that would hide all there is."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def summary_table(summaries: dict[str, Summary]) -> str:
    """One row a problem: how far the default is from the best, and what fails."""
    header = [
        "problem", "quality", "default", "best cell", "default below the best",
        "runs without failure", "of those at the default contrast", "with the prior", "cells",
    ]  # fmt: skip
    rows = []
    for summary in summaries.values():
        default, best = summary.problem.default, summary.best
        rows.append(
            [
                summary.problem.title,
                summary.problem.measure,
                f"{described(default)}: {summary.quality[default]:.3f}",
                f"{described(best)}: {summary.quality[best]:.3f}",
                nats(summary.below(default)),
                f"{summary.share():.0%}",
                f"{summary.share(with_contrast(default.structure.contrast)):.0%}",
                f"{summary.share(with_contrast('prior')):.0%}",
                str(len(summary.quality)),
            ]
        )
    return markdown_table(header, rows)


def with_contrast(name: str) -> Callable[[Cell], bool]:
    """Whether a cell has this contrast."""
    return lambda cell: cell.structure.contrast == name


def described(cell: Cell) -> str:
    """A cell in words, without what is at its default."""
    structure = cell.structure
    words = [structure.contrast, cell.objective]
    words += [f"{structure.steps} steps"] if structure.steps != 1 else []
    words += [f"width × {structure.width:g}"] if structure.width != 1.0 else []
    words += [f"rate × {cell.rate:g}"] if cell.rate != 1.0 else []
    return ", ".join(words)


def settings() -> list[tuple[str, Callable[[Cell], Cell]]]:
    """Each change of one setting, as what it makes of a default cell."""

    def structural(**change) -> Callable[[Cell], Cell]:
        return lambda cell: cell._replace(structure=cell.structure._replace(**change))

    def other(**change) -> Callable[[Cell], Cell]:
        return lambda cell: cell._replace(**change)

    changes = [(f"rate × {rate:g}", other(rate=rate)) for rate in RATES]
    changes += [(f"{steps} critic steps", structural(steps=steps)) for steps in STEPS[1:]]
    changes += [(f"width × {w:g}", structural(width=w)) for w in WIDTHS if w != 1.0]
    changes += [(f"contrast: {name}", structural(contrast=name)) for name in CONTRASTS]
    changes += [(f"objective: {name}", other(objective=name)) for name in OBJECTIVES]
    return changes


def worst_table(summaries: dict[str, Summary]) -> str:
    """One row a setting, all else at each problem's default."""
    rows = []
    for name, change in settings():
        row = [name]
        for summary in summaries.values():
            cell = change(summary.problem.default)
            if cell not in summary.quality:
                row.append("–")
                continue
            failed = summary.failed[cell]
            words = nats(summary.below(cell))
            if failed:
                words += (
                    f" ({failed} of {summary.runs} failed)" if summary.runs > 1 else " (failed)"
                )
            row.append(f"**{words}**" if cell == summary.problem.default else words)
        rows.append(row)
    titles = [summary.problem.title for summary in summaries.values()]
    return markdown_table(["one change", *titles], rows)


def picture(summaries: dict[str, Summary], path: Path) -> None:
    """A row a problem: objective × rate for each contrast, then steps × rate, width × rate."""
    figure, axes = plt.subplots(
        len(summaries),
        len(CONTRASTS) + 2,
        figsize=(17, 2.5 * len(summaries)),
        squeeze=False,
        width_ratios=[1.0] * (len(CONTRASTS) + 2),
        layout="constrained",
    )
    for row, summary in zip(axes, summaries.values(), strict=True):
        default = summary.problem.default
        for axis, contrast in zip(row, CONTRASTS, strict=False):
            cells = [
                [Cell(Structure(contrast), objective, rate) for rate in RATES]
                for objective in OBJECTIVES
            ]
            heat(axis, summary, cells, list(OBJECTIVES))
            axis.set_title(f"{summary.problem.title}: {contrast}", fontsize=8)
        for axis, knob, values in ((row[-2], "steps", STEPS), (row[-1], "width", WIDTHS)):
            structures = [default.structure._replace(**{knob: value}) for value in values]
            cells = [[Cell(s, default.objective, rate) for rate in RATES] for s in structures]
            heat(axis, summary, cells, [f"{knob} {value:g}" for value in values])
            axis.set_title(f"{summary.problem.title}: {described(default)}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("critic rate over the default", fontsize=8)
    figure.suptitle(
        "Nats below the best cell; × where runs failed; a frame round the default", fontsize=9
    )
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def heat(
    axis: Axes, summary: Summary, cells: Sequence[Sequence[Cell]], labels: Sequence[str]
) -> None:
    """One panel, each cell with its number."""
    below = np.asarray([[summary.below(cell) for cell in line] for line in cells])
    top = summary.problem.tolerance
    axis.imshow(np.minimum(below, top), vmin=0.0, vmax=top, cmap="viridis_r", aspect="auto")
    axis.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES], fontsize=7)
    axis.set_yticks(range(len(labels)), labels, fontsize=7)
    for line, found in enumerate(cells):
        for column, cell in enumerate(found):
            if cell not in summary.quality:
                continue
            failed = summary.failed[cell]
            value = below[line, column]
            words = "×" if failed == summary.runs else nats(value) + (" ×" if failed else "")
            colour = "white" if value > 0.6 * top else "black"
            axis.text(column, line, words, ha="center", va="center", fontsize=6.5, color=colour)
            if cell == summary.problem.default:
                box = plt.Rectangle(
                    (column - 0.48, line - 0.46), 0.96, 0.92, fill=False, ec="red", lw=1.5
                )
                axis.add_patch(box)
