"""Pictures that show how far the numbers of an evaluation can be trusted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from avb.diagnostics import method_calibration
from avb.evaluation import bidirectional_bounds, elbo_bracket, importance_bound
from avb.posteriors import SemiImplicitPosterior
from avb.report._bounds import draw_annealing, draw_bracket, draw_weights
from avb.report._calibration import draw_rank_histograms
from avb.report._posterior_grid import draw_posterior_grid
from avb.runs import EvaluationSettings, Run

WEIGHTED_DATA = 200
BRACKETED_DATA = 50
ANNEALED_DATA = 20
GRID_DATA = 4


def draw_evaluation(
    run: Run,
    settings: EvaluationSettings,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """Draw what stands behind a run's numbers, on the first few of the data.

    ``weights.png`` shows the importance weights of each datum; ``annealing.png`` both
    annealed bounds against the number of temperatures, on simulated data; ``ranks.png``
    simulation-based calibration; ``bracket.png`` the bracket against K where the posterior
    is semi-implicit; ``posterior.png`` the posterior beside the exact one on a grid where
    there are two latent dimensions.

    Args:
        run: The run; the pictures go into its folder.
        settings: As for the evaluation.
        progress: Called with the name of the present picture, the pictures done and in all.

    Returns:
        The names of the files.

    Raises:
        DataError: The data cannot be loaded.
        RunError: The data have changed, or the folder cannot be written.
    """
    data = run.held_out(settings.split)[: settings.num_data]
    drawers = {"weights.png": _weights, "ranks.png": _ranks}
    if settings.precision.annealed_data > 0:
        drawers["annealing.png"] = _annealing
    if isinstance(run.method.posterior, SemiImplicitPosterior):
        drawers["bracket.png"] = _bracket
    if run.method.model.latent_dim == 2:
        drawers["posterior.png"] = _posterior
    for done, (name, draw) in enumerate(drawers.items()):
        if progress is not None:
            progress("pictures", done, len(drawers))
        draw(run.path / name, run, data, settings, jax.random.key(settings.seed))
    if progress is not None:
        progress("pictures", len(drawers), len(drawers))
    return list(drawers)


def _weights(
    path: Path, run: Run, data: np.ndarray, settings: EvaluationSettings, key: Any
) -> None:
    model, posterior, precision = run.method.model, run.method.posterior, settings.precision
    bound = importance_bound(
        model,
        posterior,
        data[:WEIGHTED_DATA],
        key=key,
        samples=precision.importance_samples,
        proposal=precision.proposal,
    )
    draw_weights(path, bound)


def _ranks(path: Path, run: Run, data: np.ndarray, settings: EvaluationSettings, key: Any) -> None:
    draw_rank_histograms(method_calibration(run.method, key=key), path)


def _annealing(
    path: Path, run: Run, data: np.ndarray, settings: EvaluationSettings, key: Any
) -> None:
    precision = settings.precision
    budgets = sorted({max(1, precision.temperatures // share) for share in (8, 4, 2, 1)})
    bounds = [
        bidirectional_bounds(
            run.method.model,
            run.method.posterior,
            key=key,
            num_data=min(precision.annealed_data, ANNEALED_DATA),
            temperatures=temperatures,
            chains=precision.chains,
        )
        for temperatures in budgets
    ]
    lower, upper = zip(*bounds, strict=True)
    draw_annealing(path, budgets, lower, upper)


def _bracket(
    path: Path, run: Run, data: np.ndarray, settings: EvaluationSettings, key: Any
) -> None:
    posterior = run.method.posterior
    assert isinstance(posterior, SemiImplicitPosterior)
    most = settings.precision.max_components
    budgets = sorted({min(4**power, most) for power in range(8)})
    bounds = [
        elbo_bracket(
            run.method.model, posterior, data[:BRACKETED_DATA], key=key, components=components
        )
        for components in budgets
    ]
    lower, upper = zip(*bounds, strict=True)
    draw_bracket(path, budgets, lower, upper)


def _posterior(
    path: Path, run: Run, data: np.ndarray, settings: EvaluationSettings, key: Any
) -> None:
    method = run.method
    first = data[:GRID_DATA]
    draw_posterior_grid(path, method.model, method.posterior, first, key)
