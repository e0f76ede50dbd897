"""The latent plane of a model with two latent dimensions."""

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from avb.models import FlowPrior
from avb.report._figure import COLOURS, MUTED, figure
from avb.runs import Run
from avb.runs._encode import encode

LATENT = "latent.png"
SHOWN_DATA = 1000
PRIOR_DRAWS = 4000


def draw_latent(run: Run) -> None:
    """Show one posterior draw of each test datum over the prior, in ``latent.png``.

    The run must have two latent dimensions.
    """
    z = encode(run, run.held_out("test")[:SHOWN_DATA], draws=1).z[:, 0]
    reach = max(3.2, float(np.abs(z).max()) * 1.05)
    with figure(run.path / LATENT, 4.6, 4.6) as drawn:
        axes = drawn.subplots()
        _draw_prior(axes, run)
        axes.plot(*z.T, ".", color=COLOURS[0], markersize=4, alpha=0.6, label="posterior draws")
        axes.set(
            xlim=(-reach, reach),
            ylim=(-reach, reach),
            aspect="equal",
            xlabel="latent dimension 1",
            ylabel="latent dimension 2",
            title=f"{run.record.config.method} on {run.record.data['name']}, {len(z)} test data",
        )
        axes.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")


def _draw_prior(axes: Axes, run: Run) -> None:
    """Rings of N(0, I), or draws of a flow."""
    prior = run.method.model.prior
    if isinstance(prior, FlowPrior):
        draws = np.asarray(prior.sample(jax.random.key(0), (PRIOR_DRAWS,)))
        axes.plot(*draws.T, ".", color=MUTED, markersize=2, alpha=0.25, label="draws of the prior")
        return
    line = {"color": MUTED, "linewidth": 0.8, "linestyle": "--"}
    for radius in (1, 2, 3):
        axes.add_patch(Circle((0, 0), radius, fill=False, **line))
    axes.plot([], [], label="prior at 1, 2, 3 s.d.", **line)
