"""Posteriors of two latent dimensions beside the exact ones on a grid."""

import math
import os
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from avb._errors import ConfigError
from avb._types import Key
from avb.evaluation._batched import check_data
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior, AbstractTractablePosterior
from avb.report._figure import COLOURS, INK, MUTED, figure

SHOWN_DATA = 5
DRAWS = 1500
COARSE, FINE = 81, 201
PRIOR_SCALES = 5.0
PRIOR_DRAWS = 1000
NATS_BELOW = 12.0
MASSES = (0.95, 0.8, 0.5, 0.2)
SHADES = ("#dde4eb", "#c3cfda", "#a3b4c4", "#7f95a9")
WARM = ("#fbe9d7", "#f5cfa6", "#eab077", "#d98a45")
OUTLINE = {"colors": INK, "linewidths": 0.6, "linestyles": "solid"}
POINTS_AT_ONCE = 1024

Box = tuple[np.ndarray, np.ndarray]


class _Grid(NamedTuple):
    """Both axes of a grid, and log densities on it, rows along the first axis."""

    first: np.ndarray
    second: np.ndarray
    log_density: np.ndarray

    @property
    def box(self) -> Box:
        """Its lower and its upper corner."""
        low, high = ([axis[end] for axis in (self.first, self.second)] for end in (0, -1))
        return np.array(low), np.array(high)

    @property
    def log_mass(self) -> float:
        """Log of the integral over the grid."""
        cell = (self.first[1] - self.first[0]) * (self.second[1] - self.second[0])
        return float(scipy.special.logsumexp(self.log_density) + math.log(cell))


@eqx.filter_jit
def _log_joint(model: LatentVariableModel, x, points):
    return jax.lax.map(lambda z: model.log_joint(x, z), points, batch_size=POINTS_AT_ONCE)


@eqx.filter_jit
def _log_prob(posterior: AbstractTractablePosterior, x, points):
    density = posterior.density(posterior.encoder(x))
    return jax.lax.map(density.log_prob, points, batch_size=POINTS_AT_ONCE)


@eqx.filter_jit
def _draws(posterior: AbstractPosterior, x, key):
    return posterior.sample(key, x, (DRAWS,))


def _on_grid(log_density, box: Box, size: int) -> _Grid:
    """A function of many points, on a grid over a box."""
    axes = [np.linspace(low, high, size) for low, high in zip(*box, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    values = np.asarray(log_density(jnp.asarray(points, jnp.float32)), np.float64)
    return _Grid(axes[0], axes[1], values.reshape(size, size))


def _box_of(grid: _Grid, draws: np.ndarray) -> Box:
    """Where the density is within some nats of its peak, and nearly all draws."""
    rows, columns = np.nonzero(grid.log_density > grid.log_density.max() - NATS_BELOW)
    seen = np.stack([grid.first[rows], grid.second[columns]], axis=1)
    step = np.array([grid.first[1] - grid.first[0], grid.second[1] - grid.second[0]])
    low = np.minimum(seen.min(axis=0) - step, np.quantile(draws, 0.002, axis=0))
    high = np.maximum(seen.max(axis=0) + step, np.quantile(draws, 0.998, axis=0))
    return low, high


def _exact(model: LatentVariableModel, x: np.ndarray, draws: np.ndarray) -> _Grid:
    """p(x, z) on a grid fine enough for the evidence, found by way of a coarse one."""
    # Of draws, since a flow has moments of no other kind.
    of_prior = np.asarray(model.prior.sample(jax.random.key(0), (PRIOR_DRAWS,)), np.float64)
    centre, reach = of_prior.mean(axis=0), PRIOR_SCALES * of_prior.std(axis=0)

    def log_joint(points):
        return _log_joint(model, jnp.asarray(x), points)

    coarse = _on_grid(log_joint, (centre - reach, centre + reach), COARSE)
    return _on_grid(log_joint, _box_of(coarse, draws), FINE)


def _levels(grid: _Grid) -> list[float]:
    """Log densities whose regions hold the masses."""
    falling = np.sort(grid.log_density.ravel())[::-1]
    mass = np.cumsum(np.exp(falling - scipy.special.logsumexp(falling)))
    places = np.minimum(np.searchsorted(mass, MASSES), len(falling) - 1)
    return sorted({float(falling[place]) for place in places})


def _fill(axes: Axes, grid: _Grid, shades: tuple[str, ...]) -> None:
    levels = _levels(grid)
    coordinates = (grid.first, grid.second, grid.log_density.T)
    axes.contourf(*coordinates, levels=[*levels, np.inf], colors=shades[-len(levels) :], zorder=1)


def _outline(axes: Axes, grid: _Grid) -> None:
    coordinates = (grid.first, grid.second, grid.log_density.T)
    axes.contour(*coordinates, levels=_levels(grid), zorder=3, **OUTLINE)


def _view(grid: _Grid, draws: np.ndarray) -> Box:
    """What to show: nearly all of both distributions."""
    mass = np.exp(grid.log_density - scipy.special.logsumexp(grid.log_density))
    ends = []
    for axis, points in ((1, grid.first), (0, grid.second)):
        along = np.cumsum(mass.sum(axis=axis))
        ends.append([points[np.searchsorted(along, share)] for share in (0.001, 0.999)])
    exact = np.array(ends)
    low = np.minimum(exact[:, 0], np.quantile(draws, 0.005, axis=0))
    high = np.maximum(exact[:, 1], np.quantile(draws, 0.995, axis=0))
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def draw_posterior_grid(
    path: str | os.PathLike,
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    key: Key,
) -> None:
    """Show the exact posterior of each datum and the approximate one below it.

    Above p(z|x) on a grid, regions of highest density with 20%, 50%, 80% and 95% of the
    mass, and the evidence that the grid gives, in nats. Below 1,500 draws of q(z|x), on its
    regions where it has a density, under the outlines of the exact ones.

    Args:
        path: Where to write the PNG file.
        model: p(x, z) with two latent dimensions.
        posterior: q(z|x).
        data: Shape ``(n, *data_shape)``, at most 5 data.
        key: PRNG key of the draws.

    Raises:
        ConfigError: Another number of latent dimensions, or too many data.
        DataError: Data of another shape, or not finite.
        RunError: The file cannot be written.
    """
    if model.latent_dim != 2:
        raise ConfigError(
            f"picture of posteriors: expected a model with 2 latent dimensions, "
            f"got {model.latent_dim}"
        )
    data = check_data(data, model.data_shape)
    if len(data) > SHOWN_DATA:
        raise ConfigError(
            f"picture of posteriors: expected at most {SHOWN_DATA} data, got {len(data)}; "
            f"pass data[:{SHOWN_DATA}]"
        )
    columns = len(data)
    name = type(posterior).__name__
    with figure(path, max(4.6, 0.9 + 2.3 * columns), 5.4) as drawn:
        said = "exact posterior: lines at 20, 50, 80 and 95% of its mass"
        drawn.suptitle(
            f"{said}\n{name}: {DRAWS:,} draws", fontsize=8, color=MUTED, x=0.01, ha="left"
        )
        panels = drawn.subplots(2, columns, squeeze=False)
        for index, (x, key_x) in enumerate(zip(data, jax.random.split(key, columns), strict=True)):
            _draw_datum(panels[0, index], panels[1, index], model, posterior, x, key_x)
        panels[0, 0].set_ylabel("exact: latent dimension 2")
        panels[1, 0].set_ylabel(f"{name}: latent dimension 2")
        for axes in panels[1]:
            axes.set_xlabel("latent dimension 1")


def _draw_datum(
    above: Axes,
    below: Axes,
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    x: np.ndarray,
    key: Key,
) -> None:
    draws = np.asarray(_draws(posterior, jnp.asarray(x), key), np.float64)
    exact = _exact(model, x, draws)
    view = _view(exact, draws)
    _fill(above, exact, SHADES)
    _outline(above, exact)
    above.set_title(f"log p(x) = {exact.log_mass:.2f} nats", fontsize=9)
    if isinstance(posterior, AbstractTractablePosterior):
        approximate = _on_grid(
            lambda points: _log_prob(posterior, jnp.asarray(x), points), exact.box, FINE
        )
        _fill(below, approximate, WARM)
    below.plot(*draws.T, ".", color=COLOURS[1], markersize=1.8, alpha=0.35, zorder=2)
    _outline(below, exact)
    for axes in (above, below):
        axes.set(xlim=(view[0][0], view[1][0]), ylim=(view[0][1], view[1][1]))
        axes.grid(visible=False)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
