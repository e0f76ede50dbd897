"""The latent plane of a model with two latent dimensions."""

import numpy as np
from matplotlib.patches import Circle

from avb.report._figure import COLOURS, MUTED, figure
from avb.runs import Run
from avb.runs._encode import encode

LATENT = "latent.png"
SHOWN_DATA = 1000


def draw_latent(run: Run) -> None:
    """Show one posterior draw of each test datum over the prior, in ``latent.png``.

    The run must have two latent dimensions.
    """
    z = encode(run, run.held_out("test")[:SHOWN_DATA], draws=1).z[:, 0]
    reach = max(3.2, float(np.abs(z).max()) * 1.05)
    with figure(run.path / LATENT, 4.6, 4.6) as drawn:
        axes = drawn.subplots()
        for radius in (1, 2, 3):
            circle = Circle((0, 0), radius, fill=False, color=MUTED, linewidth=0.8, linestyle="--")
            axes.add_patch(circle)
        axes.plot([], [], color=MUTED, linewidth=0.8, linestyle="--", label="prior at 1, 2, 3 s.d.")
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
