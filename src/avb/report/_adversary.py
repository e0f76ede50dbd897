"""The state of an adversary: a picture of four panels, and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from avb.evaluation import Diagnosis
from avb.evaluation._verdict import Finding
from avb.report._figure import COLOURS, MUTED, figure
from avb.report._tables import plain_table
from avb.runs import Run
from avb.runs._metrics import read_rows

ADVERSARY = "adversary.png"
GRADIENTS = ("encoder", "decoder", "contrast", "critic")


def draw_adversary(run: Run, diagnosis: Diagnosis) -> None:
    """Show what the critic must learn, what it says, and both players' gradients.

    Args:
        run: The run; ``adversary.png`` goes into its folder.
        diagnosis: As :func:`avb.evaluation.diagnose` gave it.

    Raises:
        RunError: The folder cannot be written.
    """
    draw_diagnosis(run.path / ADVERSARY, run.path.name, diagnosis, read_rows(run.path))


def draw_diagnosis(
    path: str | Path, title: str, diagnosis: Diagnosis, rows: Sequence[Mapping[str, float | None]]
) -> None:
    """The same picture of a method that was trained without a run folder.

    Args:
        path: The PNG file.
        title: What was diagnosed, in a few words.
        diagnosis: As :func:`avb.evaluation.diagnose` gave it.
        rows: The metrics of training, such as ``FitResult.history``.

    Raises:
        RunError: The file cannot be written.
    """
    with figure(Path(path), 9.0, 6.4) as drawn:
        panels = drawn.subplots(2, 2)
        _draw_task(panels[0, 0], diagnosis)
        _draw_scatter(panels[0, 1], diagnosis)
        _draw_logits(panels[1, 0], diagnosis)
        _draw_gradients(panels[1, 1], rows)
        verdict = "no part at fault" if diagnosis.fault == "none" else f"fault: {diagnosis.fault}"
        drawn.suptitle(f"{title}: {verdict}", x=0.01, ha="left", fontsize=11)


def _draw_task(axes: Axes, diagnosis: Diagnosis) -> None:
    """Bars: the critic's task, the contrast's part in it, and what the critic misses."""
    bars = {
        "KL(q‖r): the critic's task": (diagnosis.divergence, COLOURS[0]),
        "spared by a Gaussian\nwith q's moments": (diagnosis.misfit, COLOURS[2]),
        "missed by the critic": (diagnosis.too_high, COLOURS[4]),
        "missed after training\nthe critic alone": (diagnosis.refitted_too_high, COLOURS[1]),
    }
    for place, (found, colour) in enumerate(bars.values()):
        axes.barh(place, found.nats, xerr=2 * found.error, color=colour, height=0.6)
        end = max(found.nats + 2 * found.error, 0.0)
        axes.annotate(f" {found.nats:z.2f}", (end, place), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set(title="What there is to learn, and what is missed", xlabel="nats per datum")


def _draw_scatter(axes: Axes, diagnosis: Diagnosis) -> None:
    """T against T*, inside what nearly all draws reach."""
    shown = np.concatenate(diagnosis.scatter)
    low, high = np.quantile(shown, (0.005, 0.995))
    room = 0.05 * (high - low) + 1e-3
    for pairs, colour, label in zip(
        diagnosis.scatter, (COLOURS[0], COLOURS[1]), ("q", "r"), strict=True
    ):
        axes.scatter(
            *pairs.T, s=4, alpha=0.4, color=colour, linewidths=0, label=f"draws of {label}"
        )
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8)
    axes.set(
        xlim=(low - room, high + room),
        ylim=(low - room, high + room),
        title="The critic against the reference",
        xlabel=f"T* by {diagnosis.reference} (nats)",
        ylabel="T (nats)",
    )
    axes.legend(loc="upper left", fontsize=8, markerscale=3)


def _draw_logits(axes: Axes, diagnosis: Diagnosis) -> None:
    values = [pairs[:, 1] for pairs in diagnosis.scatter]
    edges = np.histogram_bin_edges(np.concatenate(values), 50).tolist()
    for logits, colour, label in zip(values, (COLOURS[0], COLOURS[1]), ("q", "r"), strict=True):
        axes.hist(logits, edges, density=True, alpha=0.6, color=colour, label=f"draws of {label}")
    axes.set(
        title=f"Accuracy {diagnosis.accuracy:.3f}, best {diagnosis.best_accuracy:.3f}",
        xlabel="T (nats)",
        ylabel="density",
    )
    axes.legend(loc="best", fontsize=8)


def _draw_gradients(axes: Axes, rows: Sequence[Mapping[str, float | None]]) -> None:
    epochs = np.array([row["epoch"] for row in rows], np.float64)
    for name, colour in zip(GRADIENTS, COLOURS, strict=False):
        norms = np.array([row.get(f"gradient_{name}") for row in rows], np.float64)
        if np.any(norms > 0):
            axes.semilogy(epochs, norms, ".-", color=colour, markersize=3, label=name)
    axes.set(title="Gradient norms", xlabel="epoch")
    if axes.lines:
        axes.legend(loc="best", fontsize=8)


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """The numbers of a diagnosis, each with what it says.

    Args:
        diagnosis: As :func:`avb.evaluation.diagnose` gave it.
    """
    table = plain_table(f"the adversary; log q by {diagnosis.reference}")
    for heading in ("number", "what it says"):
        table.add_column(heading)
    table.add_column("value", justify="right", no_wrap=True)
    for name, meaning, value in _table_rows(diagnosis):
        table.add_row(escape(name), escape(meaning), value)
    return table


def _table_rows(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    def nats(found: Finding) -> str:
        return f"{found.nats:.3f} ± {found.error:.3f}"

    on_q, on_r = diagnosis.logits[:3], diagnosis.logits[3:]
    norms = ", ".join(f"{name} {norm:.2g}" for name, norm in diagnosis.gradient_norms.items())
    losses = (diagnosis.loss, diagnosis.refitted_loss, diagnosis.best_loss)
    return [
        ("KL(q‖r)", "what the critic must learn", nats(diagnosis.divergence)),
        ("misfit", "spared by a Gaussian with q's moments", nats(diagnosis.misfit)),
        ("missed", "the critic's ELBO is too high by this", nats(diagnosis.too_high)),
        ("missed, trained on", "the critic alone, q and r held", nats(diagnosis.refitted_too_high)),
        ("E_r[exp T] − 1", "0 if r exp T is a density", nats(diagnosis.excess)),
        ("held-out loss", "now, trained on, best", ", ".join(f"{v:.3f}" for v in losses)),
        ("accuracy", "now, best", f"{diagnosis.accuracy:.3f}, {diagnosis.best_accuracy:.3f}"),
        ("T at draws of q", "1%, 50%, 99%", ", ".join(f"{v:z.2f}" for v in on_q)),
        ("T at draws of r", "1%, 50%, 99%", ", ".join(f"{v:z.2f}" for v in on_r)),
        *(
            []
            if diagnosis.thickness is None
            else [("thickness", "local spread of q, as a share", f"{diagnosis.thickness:.3f}")]
        ),
        ("slope error", "of ∇T, as a share of |∇ log q|", f"{diagnosis.slope_error:.3f}"),
        ("gradient norms", "root mean square", norms),
    ]
