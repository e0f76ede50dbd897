"""Tables and picture of the critics on known densities."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments._contests import CONTRASTS, CRITICS
from experiments._critics import OBJECTIVES
from experiments._estimators import ESTIMATORS
from experiments._results import markdown_table, spread

NAMES = (*(type(objective).__name__ for objective in OBJECTIVES), "none")
DEFAULT = "WeightedLogistic"
# Worse than the contrast alone by more than the tolerance of `avb diagnose`, in nats.
WORSE = 0.1
COLOURS = ("tab:red", "tab:orange", "tab:blue", "tab:purple", "tab:green", "tab:brown", "0.6")
MARKERS = dict(zip(CONTRASTS, "svo^D", strict=True))


class Entry(NamedTuple):
    """One critic after training, one seed."""

    critic: str
    dim: int
    contrast: str
    shape: str
    objective: str
    absolute: float
    bias: float
    score: float
    divergence: float
    alone: float

    @property
    def problem(self) -> tuple[int, str]:
        """The posterior."""
        return self.dim, self.shape

    @property
    def failed(self) -> bool:
        """Not finite, or worse than the contrast alone."""
        return not math.isfinite(self.absolute + self.score) or self.absolute > self.alone + WORSE


def number(value: float | None) -> float:
    """Of JSON, where None stands for what is not finite."""
    return math.inf if value is None else value


def entries(cells: dict) -> list[Entry]:
    """All trained critics, and for each contrast and seed T = 0 as objective ``"none"``."""
    found = []
    for name, cell in cells.items():
        critic, dim, contrast, shape = name.split(" | ")
        if critic not in CRITICS:
            continue
        for seed, divergence in enumerate(cell["divergence"]):
            values = [[number(v) for v in cell[key][seed]] for key in ("absolute", "bias", "score")]
            for objective, *three in zip(NAMES, *values, strict=True):
                alone = values[0][-1]
                place = (critic, int(dim), contrast, shape, objective)
                found.append(Entry(*place, *three, number(divergence), alone))
    return found


def grouped(items: Iterable[Entry], key: Callable) -> dict:
    """Entries by a key, in the order of their first appearance."""
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def complete(items: list[Entry]) -> list[Entry]:
    """Entries on the posteriors that every contrast has been tried on."""
    tried = grouped(items, lambda e: e.contrast).values()
    shared = set.intersection(*({e.problem for e in group} for group in tried))
    return [e for e in items if e.problem in shared]


def plain(value: float) -> str:
    """A number of a ranking."""
    if not math.isfinite(value):
        return "∞"
    return f"{value:.2f}" if value < 1000 else f"{value:.0e}"


def ranking(items: list[Entry]) -> str:
    """All pairs of contrast and objective, by the median error over posteriors and seeds."""
    rows = []
    for (critic, contrast, objective), group in grouped(
        items, lambda e: (e.critic, e.contrast, e.objective)
    ).items():
        errors, scores = [e.absolute for e in group], [e.score for e in group]
        biases = [abs(e.bias) for e in group]
        columns = [np.median(errors), max(errors), np.median(biases), max(biases)]
        columns += [np.median(scores), max(scores)]
        failed = f"{sum(e.failed for e in group)} of {len(group)}"
        name = [critic if objective != "none" else "–", contrast, objective]
        rows.append((columns[0], columns[1], [*name, *map(plain, columns), failed]))
    header = [
        "critic", "contrast", "objective", "error, median", "worst", "bias of the ELBO, median",
        "worst", "error of the score, median", "worst", "failed",
    ]  # fmt: skip
    return markdown_table(header, [row for *_, row in sorted(rows, key=lambda row: row[:2])])


def overview(items: list[Entry]) -> str:
    """Contrasts by objectives: median and worst error, and how many failed."""
    groups = grouped(items, lambda e: (e.contrast, e.objective))
    rows = []
    for contrast in CONTRASTS:
        row = [contrast]
        for objective in NAMES:
            group = groups.get((contrast, objective), [])
            if group:
                errors, failed = [e.absolute for e in group], sum(e.failed for e in group)
                told = f"{plain(float(np.median(errors)))} / {plain(max(errors))}"
                row.append(told + (f", {failed} failed" if failed else ""))
        rows.append(row)
    header = ["contrast", *NAMES[:-1], "no critic"]
    return markdown_table(header, [row for row in rows if len(row) > 1])


def order(group_key: tuple) -> tuple:
    """Rows by dimension, shape and contrast."""
    dim, shape, *contrast = group_key
    return dim, shape, [list(CONTRASTS).index(name) for name in contrast]


def by_problem(items: list[Entry]) -> str:
    """KL(q‖r) and the error of every objective, mean and range over seeds."""
    groups = grouped(items, lambda e: (e.dim, e.shape, e.contrast))
    rows = []
    for key in sorted(groups, key=order):
        group = grouped(groups[key], lambda e: e.objective)
        divergence = spread(e.divergence for e in group["none"])
        rows.append(
            [*map(str, key), divergence, *(spread(e.absolute for e in group[n]) for n in NAMES)]
        )
    header = ["d", "posterior", "contrast", "KL(q‖r)", *NAMES[:-1], "no critic"]
    return markdown_table(header, rows)


def beside_table(other: list[Entry], residual: list[Entry]) -> str:
    """The error of the default objective's critic by either network, mean and range over seeds."""
    groups = grouped(other + residual, lambda e: (e.dim, e.shape, e.contrast))
    rows = []
    for key in sorted(groups, key=order):
        of_objectives = grouped(groups[key], lambda e: e.objective)
        of_critics = grouped(of_objectives[DEFAULT], lambda e: e.critic)
        cells = [spread(e.absolute for e in group) for group in of_critics.values()]
        rows.append([*map(str, key), *cells, spread(e.absolute for e in of_objectives["none"])])
    names = (other[0].critic, "residual")
    return markdown_table(["d", "posterior", "contrast", *names, "no critic"], rows)


def score_table(items: list[Entry], cells: dict) -> str:
    """Errors of the score: the default objective over each contrast, and the estimators."""
    groups = grouped([e for e in items if e.objective == DEFAULT], lambda e: (e.dim, e.shape))
    rows = []
    for dim, shape in sorted(groups, key=order):
        of_critics = grouped(groups[dim, shape], lambda e: e.contrast)
        row = [str(dim), shape]
        row += [spread(e.score for e in of_critics.get(contrast, ())) for contrast in CONTRASTS]
        for estimator in ESTIMATORS:
            cell = cells.get(f"score | {dim} | {estimator} | {shape}", {"score": ()})
            row.append(spread(map(number, cell["score"])))
        rows.append(row)
    header = [
        "d", "posterior", *(f"T over {contrast}" for contrast in CONTRASTS),
        "S, conditionals", "S, smoothed draws", "Stein, 500 draws", "spectral, 500 draws",
    ]  # fmt: skip
    return markdown_table(header, rows)


def points_table(cells: dict) -> str:
    """KL(q‖r) of full moments of Student's t, by the number of points of noise."""
    rows = []
    for name, cell in cells.items():
        critic, dim, count, shape = name.split(" | ")
        if critic == "points":
            rows.append([count, shape, dim, spread(map(number, cell["divergence"]))])
    return markdown_table(["points", "posterior", "d", "KL(q‖r)"], rows)


def report(cells: dict, settings: dict) -> str:
    """The whole page."""
    found = entries(cells)
    residual = [e for e in found if e.critic == "residual"]
    ranked = complete(residual)
    problems = len({e.problem for e in ranked})
    parts = [
        "# Critics on known densities",
        f"`python -m experiments.known_densities`: {settings['seeds']} seeds, each critic with "
        f"{settings['budget']}. Nats per datum; error is E_q |log q̂ − log q|, bias its mean "
        "with its sign, by which the ELBO is too high or too low; that of the score is a "
        "relative L2 error where q has covariance I. Failed: not finite, or worse than the "
        f"contrast alone by more than {WORSE} nats.",
        f"## Over {problems} posteriors and all seeds: median / worst error",
        overview(ranked),
        "## The same, ranked by the median",
        ranking(ranked),
    ]
    for critic in sorted({e.critic for e in found} - {"residual"}):
        other = [e for e in found if e.critic == critic]
        places = {(e.problem, e.contrast) for e in other}
        beside = [e for e in residual if (e.problem, e.contrast) in places]
        parts += [
            f"## The {critic} critic beside the residual one",
            f"Over {len({p for p, _ in places})} posteriors.",
            ranking([e for e in other + beside if e.objective != "none"]),
            f"By posterior, {DEFAULT}:",
            beside_table(other, beside),
        ]
    if any(name.startswith("points") for name in cells):
        parts += ["## Full moments at more points of noise", points_table(cells)]
    parts += [
        "## Error of log q̂, mean and range over seeds",
        by_problem(residual),
        f"## Error of the score ({DEFAULT} for T)",
        score_table(residual, cells),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def draw(cells: dict, path: Path) -> None:
    """Errors against KL(q‖r): colour the objective, marker the contrast; means over seeds."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    residual = [e for e in entries(cells) if e.critic == "residual"]
    groups = grouped(residual, lambda e: (e.problem, e.contrast, e.objective))
    for (_, contrast, objective), group in groups.items():
        x = max(float(np.mean([e.divergence for e in group])), 1e-3)
        colour = COLOURS[NAMES.index(objective)]
        for axis, values, top in (
            (axes[0], [e.absolute for e in group], 100.0),
            (axes[1], [e.score for e in group], 10.0),
        ):
            y = min(float(np.mean(values)), top)
            style = {"color": colour, "marker": MARKERS[contrast], "alpha": 0.75, "linestyle": ""}
            axis.plot(x, y, markersize=3.5 if objective == "none" else 5.5, **style)
    for axis, label in zip(
        axes, ("error of log q̂, nats (cut at 100)", "relative error of the score (cut at 10)"),
        strict=True,
    ):  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="KL(q‖r), nats (at least 0.001)", ylabel=label)
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=name)
        for name, colour in zip((*NAMES[:-1], "no critic"), COLOURS, strict=True)
    ]
    handles += [
        Line2D([], [], color="black", marker=marker, linestyle="", label=name)
        for name, marker in MARKERS.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
