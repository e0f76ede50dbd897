"""Every critic, contrast and objective against posteriors whose log density is known.

    python -m experiments.known_densities                          # about an hour on one core
    python -m experiments.known_densities --dims 2 --seeds 1       # a look

Five shapes (a Gaussian as control, a mixture of separated Gaussians, a ring, Student's t with
three degrees of freedom, a banana) in 2, 8, 32 and 50 dimensions, each with four data of other
locations, rotations and scales. Nothing but contrast and critic is trained, all with one budget, on
fresh draws of q; then on draws that none of them saw: the error of log q̂ = log r + T, its mean,
which is the bias of the ELBO, and the error of its score. The critics of all objectives and seeds
over one contrast play side by side on the same draws, in one program that serves all shapes.
Estimators of the score alone get as many steps. Finished cells are kept.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments._contests import CONTRASTS, Budget, moment_divergence, run
from experiments._estimators import ESTIMATORS, score_errors
from experiments._known_tables import NAMES, draw, report
from experiments._results import RESULTS, write_json
from experiments._shapes import CHOOSING, SHAPES, ShapePosterior

Cell = tuple[str, int, str, str]
# Where most is left to the critic; a step costs this one several times as much.
TELESCOPED = ("prior", "full moments")
# Where fine structure is left to it.
QUADRATIC = ("full moments", "mixture")
# Of noise, for the moments of heavy tails; 70 is the default at d = 32.
POINTS = (70, 256, 1024, 4096)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command.

    Attributes:
        seeds: Seeds of every cell, side by side.
        dims: Latent dimensions.
        shapes: Shapes by name.
        contrasts: Contrasts by name.
        critics: Which of "residual", "quadratic", "telescoping", "score" (the estimators) and
            "points" (moments of Student's t at more and more points of noise).
        budget: How each is trained.
        out: Folder of the results.
    """

    seeds: int = 3
    dims: tuple[int, ...] = (2, 8, 32, 50)
    shapes: tuple[str, ...] = tuple(shape.name for shape in SHAPES)
    contrasts: tuple[str, ...] = tuple(CONTRASTS)
    critics: tuple[str, ...] = ("residual", "score", "points", "telescoping", "quadratic")
    budget: Budget = dataclasses.field(default_factory=Budget)
    out: Path = RESULTS


def plan(options: Options) -> list[Cell]:
    """All cells, those that share a program one after the other."""
    shapes = options.shapes
    games = [
        ("residual", dim, contrast, shape)
        for dim in options.dims
        for contrast in options.contrasts
        for shape in shapes
    ]
    estimates = [
        ("score", dim, estimator, shape)
        for dim in options.dims
        for estimator in ESTIMATORS
        for shape in shapes
        if estimator != "conditional" or shape in CHOOSING
    ]
    others = [
        (critic, dim, contrast, shape)
        for critic, contrasts in (("telescoping", TELESCOPED), ("quadratic", QUADRATIC))
        for dim in options.dims
        for contrast in contrasts
        for shape in shapes
        if contrast in options.contrasts
    ]
    points = [("points", 32, str(count), "Student t") for count in POINTS]
    return [cell for cell in games + estimates + points + others if cell[0] in options.critics]


def measure(cell: Cell, options: Options) -> dict:
    """One cell: arrays over seeds, each over the objectives and the contrast alone."""
    critic, dim, contrast, shape = cell
    posterior = ShapePosterior([one.name for one in SHAPES].index(shape), dim)
    # Of all generators the one that XLA compiles fastest: in a quarter of the default's time.
    keys = jnp.stack([jax.random.key(seed, impl="unsafe_rbg") for seed in range(options.seeds)])
    if critic == "score":
        return {"score": np.asarray(score_errors(posterior, keys, contrast, options.budget))}
    if critic == "points":
        return {"divergence": np.asarray(moment_divergence(posterior, keys, int(contrast)))}
    return run(posterior, keys, contrast, critic, options.budget)._asdict()


def as_lists(values: np.ndarray) -> list:
    """Numbers for JSON, which has no infinity: None stands for what is not finite."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values.round(5), None).tolist()


def main(options: Options) -> None:
    """Measure what is missing, keep every cell, write table and picture."""
    path = options.out / "known_densities.json"
    settings = {
        "seeds": options.seeds,
        "budget": dataclasses.asdict(options.budget),
        "objectives": list(NAMES),
    }
    kept = json.loads(path.read_text()) if path.exists() else {}
    cells = kept["cells"] if kept.get("settings") == settings else {}
    for cell in plan(options):
        name = " | ".join(map(str, cell))
        if name in cells:
            continue
        began, clock = time.process_time(), time.perf_counter()
        found = {key: as_lists(value) for key, value in measure(cell, options).items()}
        seconds = time.process_time() - began
        cells[name] = {**found, "seconds": round(seconds, 1)}
        write_json(path, {"settings": settings, "cells": cells})
        print(name, f"{seconds:.0f} s ({time.perf_counter() - clock:.0f} s)", flush=True)
    told = report(cells, settings)
    (options.out / "known_densities.md").write_text(told)
    draw(cells, options.out / "known_densities.png")
    print(told)


if __name__ == "__main__":
    main(tyro.cli(Options))
