"""False alarms and power of the two-sample checks and of simulation-based calibration.

    python -m experiments.two_sample_checks     # about eight minutes on one core

False alarms: draws and reference draws of one distribution, every test at level 5%. The rate
should be 5% for the permutation tests, which are exact, and about that for the classifier's
null band and the chi-square test of mode shares. Power: draws that differ in one way. The
classifiers run with two folds and five splits of the reference, since trees take a second a
test otherwise.

Calibration: a conjugate Gaussian model with its exact posterior, and with wrong ones; the
ranks of three coordinates and of log p(x, z), with the verdict at 5% for all together.

Each finished cell is kept in the JSON file, so the command can be interrupted and run again;
delete the file to start afresh.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tyro

from avb.diagnostics import (
    c2st,
    energy_distance,
    mmd_test,
    mode_coverage,
    simulation_based_calibration,
    sliced_wasserstein,
)
from experiments._results import RESULTS, markdown_table, write_json

LEVEL = 0.05
CLASSIFIER = {"folds": 2, "repetitions": 5}
CENTRES = 3.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
DIM = 3

Sampler = Callable[[np.random.Generator, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment.

    Attributes:
        repetitions: Repetitions of each false-alarm rate.
        power_repetitions: Repetitions of each power.
        draws: Draws a side that enter every test; the reference has twice as many.
        permutations: Of the permutation tests.
        simulations: Simulations of each calibration.
        seed: Seed of everything.
        out: Folder of the results.
    """

    repetitions: int = 200
    power_repetitions: int = 50
    draws: int = 200
    permutations: int = 199
    simulations: int = 200
    seed: int = 0
    out: Path = RESULTS


def normal(dim: int, shift: float = 0.0, scale: float = 1.0) -> Sampler:
    def sample(rng, count):
        return scale * rng.normal(size=(count, dim)) + shift * np.eye(dim)[:1]

    return sample


def cauchy(rng, count):
    return rng.standard_cauchy(size=(count, 2))


def banana(rng, count):
    z = rng.normal(size=(count, 2))
    z[:, 1] = 0.5 * z[:, 1] + z[:, 0] ** 2
    return z


def modes(shares: tuple[float, ...]) -> Sampler:
    def sample(rng, count):
        return CENTRES[rng.choice(4, size=count, p=shares)] + rng.normal(size=(count, 2))

    return sample


def correlated(rng, count):
    return rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=count)


FOUR = modes((0.25, 0.25, 0.25, 0.25))
EQUAL: dict[str, Sampler] = {
    "normal, d = 10": normal(10),
    "Cauchy, d = 2": cauchy,
    "banana, d = 2": banana,
    "four modes, d = 2": FOUR,
}
# Classifiers take a hundred times as long as the others: two shapes have to do.
CLASSIFIED = ("normal, d = 10", "Cauchy, d = 2")
DIFFERENT: dict[str, tuple[Sampler, Sampler]] = {
    "mean + 0.3 s.d., d = 2": (normal(2, shift=0.3), normal(2)),
    "mean + 0.3 s.d., one of d = 10": (normal(10, shift=0.3), normal(10)),
    "s.d. × 0.8, d = 2": (normal(2, scale=0.8), normal(2)),
    "correlation 0.5, d = 2": (correlated, normal(2)),
    "one of four modes missing": (modes((1 / 3, 1 / 3, 1 / 3, 0)), FOUR),
}


def rejections(config: Config) -> dict[str, Callable[[np.ndarray, np.ndarray, Any], bool]]:
    """Each test as: does it reject at 5%?"""
    sizes = {"permutations": config.permutations, "max_draws": config.draws}

    def permuted(test):
        return lambda x, y, key: test(x, y, key=key, **sizes).p_value <= LEVEL

    def classified(name):
        return lambda x, y, key: not c2st(x, y, key=key, classifier=name, **CLASSIFIER).inside

    return {
        "C2ST, boosting": classified("boosting"),
        "C2ST, logistic": classified("logistic"),
        "MMD": permuted(mmd_test),
        "energy": permuted(energy_distance),
        "sliced Wasserstein": permuted(sliced_wasserstein),
    }


def rate(config: Config, draw: Sampler, reference: Sampler, reject, count: int) -> int:
    """How many of ``count`` pairs of samples are rejected."""
    rng = np.random.default_rng(config.seed)
    total = 0
    for key in jax.random.split(jax.random.key(config.seed), count):
        total += reject(draw(rng, config.draws), reference(rng, 2 * config.draws), key)
    return total


# --- Calibration ---


def simulate(key):
    key_z, key_x = jax.random.split(key)
    z = jax.random.normal(key_z, (DIM,))
    return z, z + jax.random.normal(key_x, (DIM,))


def posterior(shift: float = 0.0, scale: float = 1.0, correlation: float = 0.0):
    """The exact posterior N(x / 2, I / 2) moved, scaled or correlated in two coordinates."""
    covariance = 0.5 * np.eye(DIM)
    covariance[0] *= scale
    covariance[:, 0] *= scale
    covariance[0, 1] = covariance[1, 0] = 0.5 * correlation * scale
    factor = np.linalg.cholesky(covariance).astype(np.float32)
    move = (np.sqrt(0.5) * shift * np.eye(DIM)[0]).astype(np.float32)

    def sample(key, x, draws):
        return x / 2 + move + jax.random.normal(key, (draws, DIM)) @ factor.T

    return sample


def prior(key, x, draws):
    return jax.random.normal(key, (draws, DIM))


def log_joint(z, x):
    return -0.5 * (jnp.sum(z**2) + jnp.sum((x - z) ** 2))[None]


POSTERIORS: dict[str, Callable] = {
    "exact": posterior(),
    "mean + 0.3 s.d.": posterior(shift=0.3),
    "s.d. × 0.8": posterior(scale=0.8),
    "s.d. × 1.25": posterior(scale=1.25),
    "correlation 0.7": posterior(correlation=0.7),
    "the prior": prior,
}


def calibration(config: Config, sample, count: int) -> tuple[int, int]:
    """How many of ``count`` calibrations reject: by the verdict, and without log p(x, z)."""
    verdicts = without = 0
    for key in jax.random.split(jax.random.key(config.seed), count):
        result = simulation_based_calibration(
            simulate, sample, key=key, simulations=config.simulations, quantities=log_joint
        )
        verdicts += not result.calibrated
        coordinates = result.uniformity.ecdf_p_values[:DIM]
        without += bool(coordinates.min() < LEVEL / DIM)
    return verdicts, without


# --- Cells and tables ---


class Cells:
    """Finished cells, kept in a file.

    Args:
        config: Settings; a file of other settings is not continued.
    """

    def __init__(self, config: Config):
        self.path = config.out / "two_sample_checks.json"
        self.settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "out"}
        self.cells: dict[str, dict] = {}
        if self.path.exists():
            kept = json.loads(self.path.read_text())
            if kept["settings"] == self.settings:
                self.cells = kept["cells"]

    def get(self, name: str, count: int, compute: Callable[[], int | tuple[int, int]]) -> None:
        """Compute a cell unless it is there."""
        if name in self.cells:
            return
        began = time.perf_counter()
        found = compute()
        self.cells[name] = {
            "rejected": found if isinstance(found, int) else list(found),
            "of": count,
            "seconds": round(time.perf_counter() - began, 1),
        }
        write_json(self.path, {"settings": self.settings, "cells": self.cells})
        print(name, self.cells[name], flush=True)

    def share(self, name: str, part: int | None = None) -> str:
        if name not in self.cells:
            return "–"
        cell = self.cells[name]
        rejected = cell["rejected"] if part is None else cell["rejected"][part]
        return f"{100 * rejected / cell['of']:.1f}"


def run(config: Config, cells: Cells) -> None:
    tests = rejections(config)
    for shape, sampler in EQUAL.items():
        for name, reject in tests.items():
            if name.startswith("C2ST") and shape not in CLASSIFIED:
                continue
            cells.get(
                f"false alarm | {shape} | {name}",
                config.repetitions,
                lambda s=sampler, r=reject: rate(config, s, s, r, config.repetitions),
            )
    for difference, (draw, reference) in DIFFERENT.items():
        for name, reject in tests.items():
            cells.get(
                f"power | {difference} | {name}",
                config.power_repetitions,
                lambda d=draw, s=reference, r=reject: rate(
                    config, d, s, r, config.power_repetitions
                ),
            )

    def misplaced(x, y, _):
        return mode_coverage(x, y, modes=CENTRES).p_value <= LEVEL

    missing = DIFFERENT["one of four modes missing"][0]
    for name, sampler in (("equal", FOUR), ("one mode missing", missing)):
        cells.get(
            f"modes | {name}",
            config.repetitions,
            lambda s=sampler: rate(config, s, FOUR, misplaced, config.repetitions),
        )
    for name, sample in POSTERIORS.items():
        count = config.repetitions if name == "exact" else config.power_repetitions
        cells.get(
            f"calibration | {name}", count, lambda s=sample, n=count: calibration(config, s, n)
        )


def chance(count: int) -> str:
    """Where a true rate of 5% is observed with probability 99%."""
    low, high = scipy.stats.binom.ppf((0.005, 0.995), count, LEVEL) / count
    return f"{100 * low:.1f} to {100 * high:.1f}"


def markdown(config: Config, cells: Cells) -> str:
    tests = list(rejections(config))

    def rows(kind, names):
        return [[n, *(cells.share(f"{kind} | {n} | {t}") for t in tests)] for n in names]

    seconds = sum(cell["seconds"] for cell in cells.cells.values())
    return "\n".join(
        [
            "# Two-sample checks and simulation-based calibration",
            "",
            f"`python -m experiments.two_sample_checks`, {seconds / 60:.0f} minutes on one shared "
            f"core. Percentage of rejections at level 5%. {config.draws} draws a side, "
            f"{2 * config.draws} reference draws for the classifier's null band, "
            f"{CLASSIFIER['folds']} folds, {CLASSIFIER['repetitions']} splits of the reference; "
            f"{config.permutations} permutations.",
            "",
            f"## False alarms: equal distributions, {config.repetitions} repetitions",
            "",
            f"A true rate of 5% gives {chance(config.repetitions)}% with probability 99%.",
            "",
            markdown_table(["distribution", *tests], rows("false alarm", EQUAL)),
            f"## Power, {config.power_repetitions} repetitions",
            "",
            markdown_table(["difference", *tests], rows("power", DIFFERENT)),
            f"Shares of four modes, chi-square test, {config.repetitions} repetitions: "
            f"{cells.share('modes | equal')}% with equal shares, "
            f"{cells.share('modes | one mode missing')}% with one mode missing.",
            "",
            f"## Calibration: {config.simulations} simulations, 99 draws each",
            "",
            f"Exact: {config.repetitions} repetitions, others: {config.power_repetitions}. "
            "ECDF test with Holm's correction; the second column leaves log p(x, z) out. "
            "Coordinates cannot see a wrong correlation, nor the prior in place of the posterior.",
            "",
            markdown_table(
                ["posterior", "coordinates and log p(x, z)", "coordinates alone"],
                [
                    [n, cells.share(f"calibration | {n}", 0), cells.share(f"calibration | {n}", 1)]
                    for n in POSTERIORS
                ],
            ),
        ]
    )


def main(config: Config) -> None:
    cells = Cells(config)
    run(config, cells)
    text = markdown(config, cells)
    (config.out / "two_sample_checks.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
