"""Targets whose modes or shapes a single chain gets wrong, each with a known log Z.

    python -m experiments.multimodal                    # all targets, 20 seeds
    python -m experiments.multimodal --seeds 3 --targets ring

For each target and seed: whether every mode has its mass to within 10%, and whether log Z lies in
the bracket of the ELBO, and between the bounds of log Z itself (the ELBO's lower one and
½ log E_q[(p/q)²]), each widened by three standard errors. The ELBO is at most log Z, so that its
bracket may lie below log Z by the posterior's divergence, which is told, too.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.special
import scipy.stats
import tyro

from avb import Inference
from experiments._results import RESULTS, markdown_table, write_json

DRAWS = 100_000
LOG_2PI = math.log(2 * math.pi)
SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOL_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
PAIR = np.concatenate(
    [
        scipy.stats.norm.ppf((np.arange(15) + 0.5) / 15) - 2.0,
        scipy.stats.norm.ppf((np.arange(15) + 0.5) / 15) + 2.0,
    ]
)


class Problem(NamedTuple):
    """A target with its log Z, and into which mode each draw falls."""

    log_density: Callable
    dim: int
    log_z: float | None
    label: Callable[[np.ndarray], np.ndarray] | None = None
    modes: int = 1


def bumps(centres: np.ndarray, scale: float) -> Problem:
    """Equal Gaussians at given centres, normalised to Z = their number."""
    points = jnp.asarray(centres, jnp.float32)
    dim = centres.shape[1]
    constant = dim * (math.log(scale) + 0.5 * LOG_2PI)

    def log_density(z):
        squares = jnp.sum((z[None, :] - points) ** 2, axis=1) / scale**2
        return jax.nn.logsumexp(-0.5 * squares) - constant

    def label(z: np.ndarray) -> np.ndarray:
        return np.argmin(((z[:, None, :] - centres[None]) ** 2).sum(-1), axis=1)

    return Problem(log_density, dim, math.log(len(centres)), label, len(centres))


def label_switching() -> Problem:
    """Means of two components of equal weight and unit scale, N(0, 5) priors, 30 data."""
    y = jnp.asarray(PAIR, jnp.float32)

    def log_density(mu):
        logs = -0.5 * (y[:, None] - mu[None, :]) ** 2 - 0.5 * LOG_2PI + math.log(0.5)
        prior = -0.5 * jnp.sum((mu / 5.0) ** 2) - 2 * math.log(5.0) - LOG_2PI
        return jnp.sum(jax.nn.logsumexp(logs, axis=1)) + prior

    grid = np.linspace(-8.0, 8.0, 801)
    one = -0.5 * (PAIR[None, :] - grid[:, None]) ** 2 - 0.5 * LOG_2PI + math.log(0.5)
    both = np.logaddexp(one[:, None, :], one[None, :, :]).sum(-1)
    prior = -0.5 * (grid / 5.0) ** 2 - math.log(5.0) - 0.5 * LOG_2PI
    both = both + prior[:, None] + prior[None, :]
    log_z = scipy.special.logsumexp(both) + 2 * math.log(grid[1] - grid[0])
    return Problem(log_density, 2, log_z, lambda z: (z[:, 0] > z[:, 1]).astype(int), 2)


def funnel() -> Problem:
    """Neal's funnel in ten dimensions."""

    def log_density(z):
        v, x = z[0], z[1:]
        inner = -0.5 * jnp.sum(x**2) * jnp.exp(-v) - 0.5 * x.size * (v + LOG_2PI)
        return -0.5 * (v / 3.0) ** 2 - math.log(3.0) - 0.5 * LOG_2PI + inner

    return Problem(log_density, 10, 0.0)


def banana() -> Problem:
    """A Gaussian bent along a parabola."""

    def log_density(z):
        bent = z[1] - 0.5 * (z[0] ** 2 - 4.0)
        return -0.5 * (z[0] / 2.0) ** 2 - 0.5 * (bent / 0.5) ** 2 - LOG_2PI

    return Problem(log_density, 2, 0.0)


def x_shape() -> Problem:
    """Two crossed Gaussians of correlation ±0.9, Z = 2."""
    scale = math.sqrt(1 - 0.9**2)

    def log_density(z):
        cross = jnp.asarray([0.9, -0.9]) * (2 * z[0] * z[1])
        squares = (jnp.sum(z**2) - cross) / scale**2
        return jax.nn.logsumexp(-0.5 * squares) - math.log(scale) - LOG_2PI

    def label(z: np.ndarray) -> np.ndarray:
        return (z[:, 0] * z[:, 1] > 0).astype(int)

    return Problem(log_density, 2, math.log(2.0), label, 2)


def ring() -> Problem:
    """A circle of radius 3 and width 0.3; its four quadrants stand for modes."""

    def log_density(z):
        return -0.5 * ((jnp.sqrt(jnp.sum(z**2) + 1e-12) - 3.0) / 0.3) ** 2

    radial = lambda r: r * math.exp(-0.5 * ((r - 3.0) / 0.3) ** 2)  # noqa: E731
    log_z = math.log(2 * math.pi * scipy.integrate.quad(radial, 0, 10, points=[3.0])[0])

    def label(z: np.ndarray) -> np.ndarray:
        return 2 * (z[:, 0] > 0) + (z[:, 1] > 0)

    return Problem(log_density, 2, log_z, label, 4)


def bimodal_schools() -> Problem:
    """Eight schools, non-centred, whose scale is free in sign: N(0, 5) in place of a half one."""
    y = jnp.asarray(SCHOOLS, jnp.float32)
    errors = jnp.asarray(SCHOOL_ERRORS, jnp.float32)

    def log_density(z):
        mu, tau, trans = z[0], z[1], z[2:]
        prior = -0.5 * (mu / 5.0) ** 2 - 0.5 * (tau / 5.0) ** 2 - 2 * math.log(5.0) - LOG_2PI
        prior = prior - 0.5 * jnp.sum(trans**2) - 4 * LOG_2PI
        residual = (y - mu - tau * trans) / errors
        return prior - 0.5 * jnp.sum(residual**2) - jnp.sum(jnp.log(errors)) - 4 * LOG_2PI

    # Given tau, all else is Gaussian: y ~ N(0, diag(errors² + tau²) + 25).
    def given(tau: float) -> float:
        covariance = np.diag(SCHOOL_ERRORS**2 + tau**2) + 25.0
        density = scipy.stats.multivariate_normal.pdf(SCHOOLS, np.zeros(8), covariance)
        return density * scipy.stats.norm.pdf(tau, 0, 5)

    log_z = math.log(scipy.integrate.quad(given, -60, 60, epsabs=0, epsrel=1e-9)[0])
    return Problem(log_density, 10, log_z, lambda z: (z[:, 1] > 0).astype(int), 2)


def grid(side: float) -> np.ndarray:
    ticks = np.arange(-2, 3) * side
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(25, 2)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "4 modes": lambda: bumps(np.array([[4, 4], [4, -4], [-4, 4], [-4, -4.0]]), 0.5),
    "25 modes": lambda: bumps(grid(4.0), 0.4),
    "label switching": label_switching,
    "funnel, d = 10": funnel,
    "banana": banana,
    "X": x_shape,
    "ring": ring,
    "bimodal eight schools": bimodal_schools,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        seeds: Seeds of each target.
        targets: Names; all by default.
        out: Where results are written, ``.json`` and ``.md``.
    """

    seeds: int = 20
    targets: tuple[str, ...] = tuple(PROBLEMS)
    out: Path = RESULTS / "multimodal"


def run(inference: Inference, problem: Problem, seed: int) -> dict:
    """One posterior against the truth."""
    began = time.perf_counter()
    key_run, key_draw = jax.random.split(jax.random.key(seed))
    posterior = inference.run(key_run)
    z = np.asarray(posterior.sample_unconstrained(key_draw, (DRAWS,)))
    seconds = time.perf_counter() - began
    bounds, found = posterior.elbo, posterior.importance
    low, high = bounds.lower - 3 * bounds.lower_error, bounds.upper + 3 * bounds.upper_error
    worst = 0.0
    if problem.label is not None:
        shares = np.bincount(problem.label(z), minlength=problem.modes) / DRAWS
        worst = float(np.max(np.abs(shares * problem.modes - 1.0)))
    return {
        "finite": bool(np.isfinite(z).all()),
        "worst_mode": worst,
        "lower": bounds.lower,
        "upper": bounds.upper,
        "inside": bool(low <= problem.log_z <= high),
        "between": bool(low <= problem.log_z <= found.upper + 3 * found.upper_error),
        "divergence": problem.log_z - bounds.upper,
        "log_evidence": found.log_evidence,
        "evidence_upper": found.upper,
        "evidence_upper_error": found.upper_error,
        "evidence_error": found.error,
        "evidence_right": bool(abs(found.log_evidence - problem.log_z) <= 3 * found.error + 1e-3),
        "pareto_k": found.pareto_k,
        "converged": posterior.converged,
        "verdict": str(posterior.verdict),
        "parts": posterior.fit.modes,
        "steps": posterior.fit.steps,
        "seconds": seconds,
    }


def table(results: dict[str, list[dict]]) -> str:
    """The report."""
    header = [
        "target", "seeds", "modes within 10%", "worst mode", "log Z in the bracket",
        "log Z between its bounds", "importance log Z right", "largest divergence",
        "largest k", "says converged", "parts", "seconds",
    ]  # fmt: skip
    rows = []
    for name, runs in results.items():
        count = lambda key, runs=runs: f"{sum(bool(r[key]) for r in runs)}"  # noqa: E731
        rows.append(
            [
                name,
                str(len(runs)),
                str(sum(r["worst_mode"] <= 0.1 for r in runs)),
                f"{max(r['worst_mode'] for r in runs):.1%}",
                count("inside"),
                count("between"),
                count("evidence_right"),
                f"{max(r['divergence'] for r in runs):.3f}",
                f"{max(r['pareto_k'] for r in runs):.2f}",
                count("converged"),
                f"{min(r['parts'] for r in runs)}–{max(r['parts'] for r in runs)}",
                f"{np.median([r['seconds'] for r in runs]):.0f}",
            ]
        )
    return markdown_table(header, rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in config.targets:
        problem = PROBLEMS[name]()
        inference = Inference(problem.log_density, dim=problem.dim)
        runs = results.setdefault(name, [])
        for seed in range(len(runs), config.seeds):
            runs.append(run(inference, problem, seed))
            write_json(path, results)
            print(name, seed, runs[-1], flush=True)
    path.with_suffix(".md").write_text(
        "# Targets that a single chain gets wrong\n\n`python -m experiments.multimodal`; "
        "one default configuration; divergence is log Z less the upper bound of the ELBO.\n\n"
        + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
