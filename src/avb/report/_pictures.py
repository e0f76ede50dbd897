"""Samples of the model, and data beside their reconstructions."""

from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from avb.report._figure import INK, figure
from avb.report._panels import draw_lines, draw_mosaic, is_image
from avb.runs import Run

SAMPLES = "samples.png"
RECONSTRUCTIONS = "reconstructions.png"
SHOWN_SAMPLES = 64
SHOWN_DATA = 12


class Samples(NamedTuple):
    """Draws from the model: latent vectors, their means E[x|z], and data."""

    z: np.ndarray
    mean: np.ndarray
    x: np.ndarray


def draw_from_model(run: Run, *, count: int, seed: int = 0) -> Samples:
    """Draw ``count`` times from p(z) p(x|z)."""

    @eqx.filter_jit
    def draws(model, keys):
        z, x = jax.vmap(model.sample)(keys)
        return Samples(z, jax.vmap(model.mean)(z), x)

    keys = jax.random.split(jax.random.key(seed), count)
    return jax.tree.map(np.asarray, draws(run.method.model, keys))


def draw_samples(run: Run, *, count: int = SHOWN_SAMPLES, seed: int = 0) -> Samples:
    """Draw from the model and show the means E[x|z] in ``samples.png``.

    Args:
        run: The run.
        count: Draws; the picture shows the first 256.
        seed: Seed of the draws.

    Returns:
        The draws.
    """
    samples = draw_from_model(run, count=count, seed=seed)
    shown = samples.mean[:256]
    is_picture = is_image(shown.shape[1:])
    columns = min(len(shown), max(1, round(len(shown) ** 0.5)) if is_picture else 4)
    rows = len(shown) // columns if is_picture else min(len(shown) // columns, 6)
    table = shown[: rows * columns].reshape(rows, columns, *shown.shape[1:])
    _draw(
        run.path / SAMPLES,
        table,
        title=f"{_name(run)}: means E[x|z] of draws from the prior",
        labels=[],
    )
    return samples


def reconstruct(run: Run, data: np.ndarray, *, draws: int, seed: int = 0) -> np.ndarray:
    """E[x|z] at posterior draws z of each datum, of shape ``(n, draws, *data_shape)``."""

    @eqx.filter_jit
    def means(method, data, keys):
        z = jax.vmap(lambda x, key: method.posterior.sample(key, x, (draws,)))(data, keys)
        return jax.vmap(jax.vmap(method.model.mean))(z)

    keys = jax.random.split(jax.random.key(seed), len(data))
    return np.asarray(means(run.method, data.astype(np.float32), keys))


def draw_reconstructions(run: Run) -> None:
    """Show test data above E[x|z] of two posterior draws, in ``reconstructions.png``."""
    data = run.held_out("test")
    data = data[: SHOWN_DATA if is_image(data.shape[1:]) else 4]
    means = reconstruct(run, data, draws=2)
    table = np.concatenate([data[None].astype(np.float32), np.moveaxis(means, 1, 0)])
    _draw(
        run.path / RECONSTRUCTIONS,
        table,
        title=f"{_name(run)}: test data and E[x|z] at two posterior draws",
        labels=["datum", "draw 1", "draw 2"],
    )


def _draw(path: Path, table: np.ndarray, *, title: str, labels: list[str]) -> None:
    rows, columns = table.shape[:2]
    if is_image(table.shape[2:]):
        width = max(4.5, 0.55 * columns + 0.8)
        ratio = (table.shape[2] * rows) / (table.shape[3] * columns)
        with figure(path, width, (width - 0.8) * ratio + 0.45) as drawn:
            axes = drawn.subplots()
            draw_mosaic(axes, table)
            axes.set_title(title)
            middle = table.shape[2] / 2 + (table.shape[2] + 1) * np.arange(len(labels))
            axes.set_yticks(middle, labels, color=INK)
            axes.tick_params(length=0)
        return
    with figure(path, 1.0 + 1.7 * columns, 0.8 + 1.2 * rows) as drawn:
        panels = draw_lines(drawn, table)
        drawn.suptitle(title, fontsize=10, color=INK)
        for axes, label in zip(panels[:, 0], labels, strict=False):
            axes.set_ylabel(label)


def _name(run: Run) -> str:
    return f"{run.record.config.method} on {run.record.data['name']}"
