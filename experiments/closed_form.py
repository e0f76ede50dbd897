"""Critics, objectives and the bracket against densities known in closed form.

    python -m experiments.closed_form            # an hour on two cores; finished cells are kept
    python -m experiments.closed_form --quick    # d = 2 and 8, one seed; writes no results

Part 1: q a correlated Gaussian, r the Gaussian with q's own diagonal moments (the adaptive
contrast at its optimum), so T* = log q − log r is a quadratic known exactly. A critic is
trained on fresh draws with each objective; its values and its gradients in z are compared
with those of T* on new draws from q. The same over the prior, N(0, I), as contrast, where
T + log r is compared with log q.

Part 2: the objective E_q[exp T − T], both expectations under q, teaches T = 0 whatever q is;
its corrected form E_r[exp T] − E_q[T] gives S = T + log r − 1 = log q − 1.

Part 3: a semi-implicit posterior z = b + A ε + s η is Gaussian, so its ELBO under a
linear-Gaussian model is known; the bracket must contain it for every K.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import tyro
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table

from avb._types import Key, Latent, Scalar
from avb.critics import ResidualCritic
from avb.densities import AbstractDensity, DiagonalGaussian, FullGaussian, PriorDensity
from avb.models._latent import standard_normal
from avb.objectives import AbstractObjective, KLDual, Logistic
from avb.training._descend import descend
from experiments._critics import OBJECTIVES, UnboundedLeastSquares, draws, relative
from experiments._linear_gaussian import bracket

TOLERANCE = 0.05
DIVERGENCE = 1.0
COLLAPSED = 0.05
FRESH_DRAWS = 20_000
CONTRAST_DRAWS = 200_000
# The gradient of each objective in exp T has finite variance where E_r[(q/r)^k] is finite.
MOMENT_NEEDED = {"KLDual": 2, "DonskerVaradhan": 2, "UnboundedLeastSquares": 4}

Loss = Callable[[Float[Array, " n"], Float[Array, "n m"]], Scalar]


@dataclasses.dataclass(frozen=True)
class Budget:
    """How a critic is trained: the same in every cell of the tables.

    Attributes:
        steps: Adam steps.
        batch: Posterior draws a step.
        contrast_draws: Contrast draws a posterior draw.
        rate: Peak rate; it falls to zero along a cosine.
        width: Hidden units of the critic.
        depth: Residual blocks of the critic.
        averaged: Share of the steps, at the end, whose parameters are averaged.
    """

    steps: int = 4000
    batch: int = 1024
    contrast_draws: int = 4
    rate: float = 1e-2
    width: int = 32
    depth: int = 1
    averaged: float = 0.25


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command.

    Attributes:
        seeds: Seeds of every cell over the adaptive contrast.
        quick: d = 2 and 8, two objectives, one seed, 1,500 steps; writes no results.
        out: Folder of the results.
    """

    seeds: int = 3
    quick: bool = False
    out: Path = Path(__file__).parent / "results"


class Problem(eqx.Module):
    """A posterior and a contrast, both known in closed form.

    Args:
        posterior: q.
        contrast: r.
    """

    posterior: FullGaussian
    contrast: AbstractDensity

    def log_ratio(self, z: Latent) -> Scalar:
        """T*(z) = log q(z) − log r(z)."""
        return self.posterior.log_prob(z) - self.contrast.log_prob(z)

    def critic_value(self, critic: ResidualCritic, z: Latent) -> Scalar:
        """T(z); there is one datum, and its feature is a constant."""
        seen = critic.features(jnp.zeros(1), jnp.zeros(1))
        return critic.evaluate(seen, self.contrast.whiten(z))


def correlation_strength(dim: int, divergence: float) -> float:
    """ρ, of which the divergence of :func:`correlated_gaussian` is −d/4 log(1 − ρ²)."""
    return math.sqrt(-math.expm1(-4.0 * divergence / dim))


def correlated_gaussian(dim: int, divergence: float) -> FullGaussian:
    """A Gaussian whose divergence from its own diagonal moments is given, in nats.

    The correlation matrix is I + ρ H S Hᵀ / d with H a Hadamard matrix and S = ±1, half of
    each: a unit diagonal, eigenvalues 1 ± ρ. (With an AR(1) matrix of the same divergence,
    one eigenvalue exceeds 2 at d = 8, where E_r[(q/r)²] and the variance of every objective
    in exp T are infinite.)
    """
    signs = np.random.default_rng(dim).permutation(np.repeat([1.0, -1.0], dim // 2))
    hadamard = scipy.linalg.hadamard(dim)
    structure = (hadamard * signs) @ hadamard.T / dim
    correlation = np.eye(dim) + correlation_strength(dim, divergence) * structure
    scale = np.geomspace(0.5, 1.0, dim)
    tril = np.linalg.cholesky(correlation * np.outer(scale, scale))
    loc = np.linspace(-0.5, 0.5, dim)
    return FullGaussian(jnp.asarray(loc, jnp.float32), jnp.asarray(tril, jnp.float32))


def adaptive_problem(dim: int, divergence: float = DIVERGENCE) -> Problem:
    """The posterior over the Gaussian with its own diagonal moments."""
    q = correlated_gaussian(dim, divergence)
    variance = jnp.sum(q.scale_tril**2, axis=1)
    return Problem(q, DiagonalGaussian(q.loc, 0.5 * jnp.log(variance)))


def prior_problem(dim: int, divergence: float = DIVERGENCE) -> Problem:
    """The posterior over a standard normal."""
    q = correlated_gaussian(dim, divergence)
    return Problem(q, PriorDensity(standard_normal(dim)))


def divergence_of(problem: Problem) -> float:
    """KL(q‖r), in closed form."""
    loc, tril = np.asarray(problem.posterior.loc), np.asarray(problem.posterior.scale_tril)
    # An affine map of z takes any Gaussian r of these problems to N(0, I).
    center = np.asarray(problem.contrast.whiten(jnp.asarray(loc)))
    zero = jnp.zeros_like(problem.posterior.loc)
    slope = np.asarray(jax.jacobian(problem.contrast.whiten)(zero))
    factor = slope @ tril
    log_det = np.linalg.slogdet(factor)[1]
    return float(0.5 * (np.sum(factor**2) + np.sum(center**2) - len(loc)) - log_det)


def ratio_moment(dim: int, divergence: float, power: int) -> float:
    """E_r[(q/r)^k] over the adaptive contrast, in closed form; it may be infinite."""
    rho = correlation_strength(dim, divergence)
    total = 0.0
    for eigenvalue in (1.0 - rho, 1.0 + rho):
        rest = power / eigenvalue - (power - 1)
        if rest <= 0:
            return math.inf
        total -= 0.5 * dim / 2 * (power * math.log(eigenvalue) + math.log(rest))
    return math.exp(total)


@eqx.filter_jit
def train(
    critic: ResidualCritic, problem: Problem, loss: Loss, budget: Budget, key: Key
) -> ResidualCritic:
    """Train on fresh draws at every step; the average of the last iterates."""
    parameters, static = eqx.partition(critic, eqx.is_inexact_array)

    def of_draws(parameters: ResidualCritic, key: Key) -> Scalar:
        critic = eqx.combine(parameters, static)
        values = jax.vmap(lambda z: problem.critic_value(critic, z))
        key_posterior, key_contrast = jax.random.split(key)
        count = budget.batch * budget.contrast_draws
        on_posterior = values(draws(problem.posterior, key_posterior, budget.batch))
        on_contrast = values(draws(problem.contrast, key_contrast, count))
        return loss(on_posterior, on_contrast.reshape(budget.batch, budget.contrast_draws))

    average = descend(
        of_draws,
        parameters,
        key,
        steps=budget.steps,
        rate=budget.rate,
        averaged=budget.averaged,
    )
    return eqx.combine(average, static)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trained critic against the truth.

    Attributes:
        dim: Latent dimensions d.
        contrast: ``"adaptive"`` or ``"prior"``.
        objective: Name of the objective.
        divergence: KL(q‖r), in nats.
        seed: Seed of the critic and of all draws.
        value: Relative L2 error of T on fresh draws from q.
        gradient: Relative L2 error of the gradients of T in z.
        log_density: Relative L2 error of T + log r = S + 1 against log q.
        excess_loss: Loss of T less that of T*, on the same fresh draws.
        moment: E_r[(q/r)^k] which the gradient's variance needs to be finite, if any.
        seconds: Wall time, compilation included.
    """

    dim: int
    contrast: Literal["adaptive", "prior"]
    objective: str
    divergence: float
    seed: int
    value: float
    gradient: float
    log_density: float
    excess_loss: float
    moment: float | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether T and its gradient are within the tolerance."""
        return max(self.value, self.gradient) < TOLERANCE


@eqx.filter_jit
def compare(
    critic: ResidualCritic, problem: Problem, objective: AbstractObjective, key: Key
) -> dict[str, Scalar]:
    """Errors of a critic, after the objective's offset, on fresh draws."""
    key_posterior, key_contrast = jax.random.split(key)
    z = draws(problem.posterior, key_posterior, FRESH_DRAWS)
    on_contrast = draws(problem.contrast, key_contrast, CONTRAST_DRAWS)
    values = jax.vmap(lambda z: problem.critic_value(critic, z))
    contrast_values = values(on_contrast)[:, None]
    offset = objective.offset(contrast_values)
    truth = jax.vmap(problem.log_ratio)(z)
    got = values(z) - offset
    log_q = jax.vmap(problem.posterior.log_prob)(z)
    log_r = jax.vmap(problem.contrast.log_prob)(z)
    slopes = jax.vmap(jax.grad(lambda z: problem.critic_value(critic, z)))(z)
    true_slopes = jax.vmap(jax.grad(problem.log_ratio))(z)
    true_contrast_values = jax.vmap(problem.log_ratio)(on_contrast)[:, None]
    lowest = objective.loss(truth, true_contrast_values)
    return {
        "value": relative(got, truth),
        "gradient": relative(slopes, true_slopes),
        "log_density": relative(got + log_r, log_q),
        "excess_loss": objective.loss(got + offset, contrast_values) - lowest,
    }


def fresh_critic(dim: int, budget: Budget, key: Key) -> ResidualCritic:
    """An untrained critic."""
    return ResidualCritic(1, dim, width=budget.width, depth=budget.depth, key=key)


def cell(
    dim: int,
    contrast: Literal["adaptive", "prior"],
    objective: AbstractObjective,
    seed: int,
    budget: Budget,
    divergence: float = DIVERGENCE,
) -> Cell:
    """Train and compare one critic."""
    began = time.perf_counter()
    problem = (adaptive_problem if contrast == "adaptive" else prior_problem)(dim, divergence)
    keys = jax.random.split(jax.random.key(seed), 3)
    critic = train(fresh_critic(dim, budget, keys[0]), problem, objective.loss, budget, keys[1])
    errors = {k: float(v) for k, v in compare(critic, problem, objective, keys[2]).items()}
    name = type(objective).__name__
    power = MOMENT_NEEDED.get(name)
    moment = None
    if power is not None and contrast == "adaptive":
        moment = ratio_moment(dim, divergence, power)
    return Cell(
        dim,
        contrast,
        name,
        divergence_of(problem),
        seed,
        **errors,
        moment=moment,
        seconds=time.perf_counter() - began,
    )


def literal_loss(on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
    """E_q[exp T − T], as often written; contrast draws play no part in it."""
    return jnp.mean(jnp.exp(on_posterior) - on_posterior)


def collapse(dim: int, budget: Budget) -> dict[str, float]:
    """A critic that knows log q − log r, trained on with the literal objective."""
    problem = adaptive_problem(dim)
    keys = jax.random.split(jax.random.key(0), 4)
    start = fresh_critic(dim, budget, keys[0])
    corrected = train(start, problem, KLDual().loss, budget, keys[1])
    # Its gradient vanishes with T, so the rare draws in the tails take longer.
    longer = dataclasses.replace(budget, steps=3 * budget.steps)
    literal = train(corrected, problem, literal_loss, longer, keys[2])
    z = draws(problem.posterior, keys[3], FRESH_DRAWS)

    def largest(critic: ResidualCritic) -> float:
        return float(jnp.max(jnp.abs(jax.vmap(lambda z: problem.critic_value(critic, z))(z))))

    errors = compare(corrected, problem, KLDual(), keys[3])
    return {
        "dim": dim,
        "largest_before": largest(corrected),
        "largest_after": largest(literal),
        "corrected_log_density": float(errors["log_density"]),
    }


def worst(cells: list[Cell]) -> list[Cell]:
    """Of each cell of the table, the largest errors over its seeds."""
    groups: dict[tuple, list[Cell]] = {}
    for one in cells:
        groups.setdefault((one.dim, one.contrast, one.objective, one.divergence), []).append(one)

    def largest(group: list[Cell]) -> Cell:
        names = ("value", "gradient", "log_density", "excess_loss", "seconds")
        return dataclasses.replace(
            group[0], seed=len(group), **{n: max(getattr(c, n) for c in group) for n in names}
        )

    return [largest(group) for group in groups.values()]


COLUMNS = (
    "d", "r", "objective", "KL(q‖r)", "seeds", "error of T", "error of ∇T",
    "error of T + log r", "excess loss", "E_r[(q/r)^k]", "within 5%", "seconds",
)  # fmt: skip


def row(one: Cell) -> tuple[str, ...]:
    """A cell's line of the table."""
    moment = "–" if one.moment is None else f"{one.moment:.3g}"
    return (
        str(one.dim), one.contrast, one.objective, f"{one.divergence:.2f}", str(one.seed),
        f"{one.value:.2%}", f"{one.gradient:.2%}", f"{one.log_density:.2%}",
        f"{one.excess_loss:.4f}", moment, "yes" if one.passed else "NO", f"{one.seconds:.0f}",
    )  # fmt: skip


def plan(options: Options) -> Iterator[tuple[int, str, AbstractObjective, int, float]]:
    """All cells: dimension, contrast, objective, seed and divergence."""
    if options.quick:
        for dim in (2, 8):
            for objective in (KLDual(), Logistic()):
                yield dim, "adaptive", objective, 0, DIVERGENCE
        return
    for dim in (2, 8, 32):
        for objective in OBJECTIVES:
            for seed in range(options.seeds):
                yield dim, "adaptive", objective, seed, DIVERGENCE
    for dim in (2, 8, 32):
        for objective in OBJECTIVES:
            yield dim, "prior", objective, 0, DIVERGENCE
    # Where unbounded least squares does work: its gradient needs a fourth moment of the ratio.
    for dim in (2, 8, 32):
        for divergence in (0.05, 0.2):
            yield dim, "adaptive", UnboundedLeastSquares(), 0, divergence


def markdown(cells: list[Cell], collapses: list[dict], bounds: dict, budget: Budget) -> str:
    """The report."""
    lines = [
        "# Critics against closed forms",
        "",
        f"`python -m experiments.closed_form`; every cell with {dataclasses.asdict(budget)}. "
        "Errors are relative L2 errors on fresh draws from q, the largest over the seeds; "
        "k is the moment of q/r that the variance of the objective's gradient needs "
        "(2 for the KL dual and Donsker-Varadhan, 4 for least squares without a bound).",
        "",
        "Over moment-matched Gaussians E_r[(q/r)^4] is infinite as soon as an eigenvalue of q's "
        "whitened covariance exceeds 4/3; at 1 nat the largest is 1 + ρ = 1.93, 1.63, 1.34 for "
        "d = 2, 8, 32, so the gradient of unbounded least squares has infinite variance. The last "
        "rows give it less to learn.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
        *("| " + " | ".join(row(one)) + " |" for one in worst(cells)),
        "",
        "## The literal objective E_q[exp T − T]",
        "",
        "| d | max abs T before | after the literal objective | corrected: error of S + 1 |",
        "| --- | --- | --- | --- |",
        *(
            f"| {c['dim']} | {c['largest_before']:.3f} | {c['largest_after']:.4f} "
            f"| {c['corrected_log_density']:.2%} |"
            for c in collapses
        ),
        "",
        f"## Bracket of a known mixture (exact ELBO {bounds['exact']:.4f})",
        "",
        "| K | lower | upper | contains the exact ELBO |",
        "| --- | --- | --- | --- |",
        *(
            f"| {b['components']} | {b['lower']:.4f} ± {b['lower_error']:.4f} "
            f"| {b['upper']:.4f} ± {b['upper_error']:.4f} | {'yes' if b['contains'] else 'NO'} |"
            for b in bounds["rows"]
        ),
        "",
    ]
    return "\n".join(lines)


def key_of(dim: int, contrast: str, objective: str, seed: int, divergence: float) -> tuple:
    """What tells cells apart; over the prior there is one divergence a dimension."""
    return dim, contrast, objective, seed, contrast == "prior" or round(divergence, 4)


def kept_cells(path: Path, budget: Budget) -> dict[tuple, Cell]:
    """Cells of an earlier run of the same budget."""
    document = json.loads(path.read_text()) if path.exists() else {}
    if document.get("budget") != dataclasses.asdict(budget):
        return {}
    cells = [Cell(**{**c, "moment": c["moment"] and float(c["moment"])}) for c in document["cells"]]
    return {key_of(c.dim, c.contrast, c.objective, c.seed, c.divergence): c for c in cells}


def main(options: Options) -> None:
    """Run all parts, print them and write the results."""
    console = Console(width=150)
    budget = Budget(steps=1500) if options.quick else Budget()
    kept = {} if options.quick else kept_cells(options.out / "closed_form.json", budget)
    cells: list[Cell] = []
    for dim, contrast, objective, seed, divergence in plan(options):
        found = kept.get(key_of(dim, contrast, type(objective).__name__, seed, divergence))
        cells.append(found or cell(dim, contrast, objective, seed, budget, divergence))
        console.print(" ".join(f"{entry:>10}" for entry in row(cells[-1])))
    table = Table(*COLUMNS, title="Errors of trained critics, largest over the seeds")
    for one in worst(cells):
        table.add_row(*row(one), style=None if one.passed else "yellow")
    console.print(table)

    collapses = [collapse(dim, budget) for dim in (2, 8)]
    for one in collapses:
        verdict = "collapsed" if one["largest_after"] < COLLAPSED else "did NOT collapse"
        console.print(
            f"d = {one['dim']}: literal objective {verdict}, max |T| {one['largest_before']:.3f} "
            f"→ {one['largest_after']:.4f}; corrected: relative error of S + 1 against log q "
            f"{one['corrected_log_density']:.2%}"
        )
    bounds = bracket((1, 8, 64, 512, 4096), 500 if options.quick else 4000)
    for one in bounds["rows"]:
        console.print(
            f"K = {one['components']}: [{one['lower']:.4f}, {one['upper']:.4f}] ± "
            f"({one['lower_error']:.4f}, {one['upper_error']:.4f}) "
            f"{'contains' if one['contains'] else 'does NOT contain'} {bounds['exact']:.4f}"
        )
    if options.quick:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    everything = {
        "budget": dataclasses.asdict(budget),
        # An infinite moment has no JSON; a string does.
        "cells": [
            {k: str(v) if v == math.inf else v for k, v in dataclasses.asdict(c).items()}
            for c in cells
        ],
        "literal": collapses,
        "bracket": bounds,
    }
    (options.out / "closed_form.json").write_text(json.dumps(everything, indent=2) + "\n")
    (options.out / "closed_form.md").write_text(markdown(cells, collapses, bounds, budget))


if __name__ == "__main__":
    main(tyro.cli(Options))
