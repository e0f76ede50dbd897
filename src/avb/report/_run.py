"""All pictures of a run."""

from avb.report._curves import draw_curves
from avb.report._latent import draw_latent
from avb.report._pictures import draw_reconstructions, draw_samples
from avb.runs import Run


def draw_run(run: Run) -> None:
    """Draw samples, reconstructions and learning curves, and the latent plane where d = 2.

    Args:
        run: The run; the pictures go into its folder.

    Raises:
        RunError: The data have changed, or the folder cannot be written.
    """
    draw_samples(run)
    draw_reconstructions(run)
    draw_curves(run)
    if run.record.config.latent_dim == 2:
        draw_latent(run)
