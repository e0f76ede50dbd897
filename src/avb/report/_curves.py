"""Learning curves from the reports of training."""

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from avb._method import Method
from avb.report._figure import COLOURS, MUTED, figure
from avb.runs import Run
from avb.runs._methods import method_info
from avb.runs._metrics import Row, read_rows

CURVES = "curves.png"


def draw_curves(run: Run) -> None:
    """Show the ELBO, and the critic where there is one, over epochs in ``curves.png``."""
    rows = read_rows(run.path)
    info = method_info(run.record.config.method)
    has_critic = run.method.critic is not None
    with figure(run.path / CURVES, 9.0 if has_critic else 4.8, 3.2) as drawn:
        panels = drawn.subplots(1, 3 if has_critic else 1, squeeze=False)[0]
        _draw_elbo(panels[0], rows, title=f"ELBO ({info.elbo})")
        if has_critic:
            _line(panels[1], rows, "critic", COLOURS[0], "T at posterior draws")
            panels[1].axhline(0, color=MUTED, linewidth=0.8)
            panels[1].set(title="Critic T = log q − log r", ylabel="nats per datum")
            _line(panels[2], rows, "critic_loss", COLOURS[0], "loss")
            panels[2].set(title=f"Critic loss ({info.critic})", ylabel="nats per datum")
            idle = {"color": MUTED, "linewidth": 0.8, "linestyle": "--"}
            panels[2].axhline(_loss_of_idle_critic(run.method), **idle, label="where T = 0")
            panels[2].legend(loc="best", fontsize=8)
        for axes in panels:
            axes.set_xlabel("epoch")


def _loss_of_idle_critic(method: Method) -> float:
    """The objective at T = 0: what a critic gives that learns nothing, or has nothing to learn."""
    assert method.objective is not None
    return float(method.objective.loss(jnp.zeros(1), jnp.zeros((1, method.contrast_draws))))


def _draw_elbo(axes: Axes, rows: list[Row], *, title: str) -> None:
    _line(axes, rows, "elbo", COLOURS[0], "training")
    _line(axes, rows, "validation_elbo", COLOURS[1], "validation")
    axes.set(title=title, ylabel="nats per datum")
    axes.legend(loc="lower right")
    # The first reports are far below the rest, and would flatten all that is of interest.
    later = [row["elbo"] for row in rows[len(rows) // 20 :] if row["elbo"] is not None]
    if len(later) > 1:
        span = max(later) - min(later)
        axes.set_ylim(bottom=min(later) - 0.1 * span)


def _line(axes: Axes, rows: list[Row], name: str, colour: str, label: str) -> None:
    epochs, values = (
        np.array([row.get(column) for row in rows], np.float64) for column in ("epoch", name)
    )
    axes.plot(epochs, values, ".-", color=colour, markersize=3, label=label)
