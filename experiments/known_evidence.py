"""Bounds of log p(x) and of the ELBO where the truth is known.

    python -m experiments.known_evidence     # about half an hour on one core

Every repetition is a datum simulated from the model. Bracketed are log p(x), from below by
importance weighting and by annealing and from above by reverse annealing, and the ELBO of a
semi-implicit posterior that is a Gaussian. A bracket holds where
lower − 3 standard errors ≤ truth ≤ upper + 3 standard errors.

Posteriors are wrong on purpose: half as wide, off by a standard deviation in every
coordinate, without correlations. Each finished part is kept in the JSON file, so the command can be
interrupted and run again; delete the file to start afresh.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from avb.evaluation import Estimate, bidirectional_bounds, elbo_bracket, importance_bound
from avb.evaluation._bidirectional import simulated_data
from experiments._known import Known, gamma_poisson, linear_gaussian, nonlinear
from experiments._linear_gaussian import known_mixture
from experiments._results import RESULTS, markdown_table, write_json

ERRORS = 3.0
HOLDS = ("importance_holds", "annealing_holds")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment.

    Attributes:
        num_data: Simulated data of each row.
        samples: Importance samples a datum.
        chains: Annealed chains a datum and direction. (Of few, a single datum's standard
            error is itself too rough for three of them to cover.)
        temperatures: Of the annealing, for d = 2 and 10.
        temperatures_large: Of the annealing, for d = 50.
        out: Folder of the results.
    """

    num_data: int = 100
    samples: int = 2000
    chains: int = 16
    temperatures: int = 300
    temperatures_large: int = 1000
    out: Path = RESULTS


def above(lower: Estimate, truth: np.ndarray) -> np.ndarray:
    """By how much a lower bound of each datum exceeds the truth, after its errors."""
    return lower.values - ERRORS * lower.errors - truth


def row(known: Known, name: str, config: Config, temperatures: int) -> dict[str, Any]:
    """All bounds of log p(x) with one posterior."""
    began = time.perf_counter()
    posterior, key = known.posteriors[name], jax.random.key(1)
    # float32 sums of hundreds of elements are this accurate at best.
    data = simulated_data(known.model, key=key, num_data=config.num_data)
    truth = known.log_evidence(data)
    allowed = 1e-6 * np.abs(truth)
    weighted = importance_bound(
        known.model, posterior, data, key=jax.random.key(2), samples=config.samples
    )
    lower, upper = bidirectional_bounds(
        known.model,
        posterior,
        key=key,
        num_data=config.num_data,
        temperatures=temperatures,
        chains=config.chains,
    )
    below_upper = truth <= upper.values + ERRORS * upper.errors + allowed
    assert weighted.pareto_k is not None
    return {
        "temperatures": temperatures,
        "data": config.num_data,
        "truth": float(truth.mean()),
        "importance_error": weighted.mean - float(truth.mean()),
        "importance_worst": float(np.min(weighted.values - truth)),
        "importance_holds": float(np.mean((above(weighted, truth) <= allowed) & below_upper)),
        "pareto_k_bad": float(np.mean(weighted.pareto_k > 0.7)),
        "lower_error": lower.mean - float(truth.mean()),
        "lower_standard_error": lower.standard_error,
        "upper_error": upper.mean - float(truth.mean()),
        "upper_standard_error": upper.standard_error,
        "annealing_holds": float(np.mean((above(lower, truth) <= allowed) & below_upper)),
        "gap": upper.mean - lower.mean,
        "seconds": time.perf_counter() - began,
    }


def plan(config: Config) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The rows, by name; each model is made once."""
    small, large = config.temperatures, config.temperatures_large
    models: list[tuple[str, Callable[[], Known], int]] = [
        ("PPCA d = 2, 20 elements", lambda: linear_gaussian(2, 20), small),
        ("PPCA d = 10, 100 elements", lambda: linear_gaussian(10, 100), small),
        ("PPCA d = 50, 784 elements", lambda: linear_gaussian(50, 784), large),
        ("FA d = 10, 100 elements", lambda: linear_gaussian(10, 100, factors=True), small),
        ("gamma-Poisson d = 2", gamma_poisson, small),
        ("network d = 2, Bernoulli", lambda: nonlinear("bernoulli"), small),
        ("network d = 2, normal", lambda: nonlinear("normal"), small),
    ]
    for title, make, temperatures in models:
        known = make()
        for name in known.posteriors:
            yield (
                f"{title}; {name}",
                lambda known=known, name=name, temperatures=temperatures: row(
                    known, name, config, temperatures
                ),
            )
    known = linear_gaussian(10, 100)
    for temperatures in (30, 100, 1000):
        yield (
            f"budget; PPCA d = 10, T = {temperatures}; shifted",
            lambda temperatures=temperatures: row(known, "shifted", config, temperatures),
        )
    for components in (1, 16, 128, 1024):
        yield (
            f"ELBO; d = 4, K = {components}",
            lambda components=components: elbo_row(components, config),
        )


def elbo_row(components: int, config: Config) -> dict[str, Any]:
    """The bracket of the ELBO of a mixture z = b + A ε + s η, which is a Gaussian."""
    began = time.perf_counter()
    dim, data_dim, scale, noise = 4, 6, 0.5, 0.5
    known = linear_gaussian(dim, data_dim)
    rng = np.random.default_rng(3)
    loc, mixing = 0.3 * rng.normal(size=dim), 0.5 * rng.normal(size=(dim, dim))
    covariance = mixing @ mixing.T + scale**2 * np.eye(dim)
    data = simulated_data(known.model, key=jax.random.key(5), num_data=config.num_data)
    decoder: Any = known.model.decoder
    weight, bias = np.asarray(decoder.weight, np.float64), np.asarray(decoder.bias, np.float64)
    residual = data - bias - weight @ loc
    squared = np.sum(residual**2, axis=1) + np.trace(weight @ covariance @ weight.T)
    log_likelihood = -0.5 * (squared / noise**2 + data_dim * math.log(2 * math.pi * noise**2))
    log_prior = -0.5 * (loc @ loc + np.trace(covariance) + dim * math.log(2 * math.pi))
    entropy = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    exact = log_likelihood + log_prior + entropy
    lower, upper = elbo_bracket(
        known.model,
        known_mixture(loc, mixing, scale, data_dim),
        data,
        key=jax.random.key(6),
        draws=1000,
        components=components,
    )
    below = lower.values - ERRORS * lower.errors <= exact
    holds = below & (exact <= upper.values + ERRORS * upper.errors)
    return {
        "components": components,
        "data": config.num_data,
        "exact": float(exact.mean()),
        "lower_error": lower.mean - float(exact.mean()),
        "upper_error": upper.mean - float(exact.mean()),
        "holds": float(holds.mean()),
        "gap": upper.mean - lower.mean,
        "seconds": time.perf_counter() - began,
    }


def signed(number: float) -> str:
    return f"{number:+.3f}"


def markdown(rows: dict[str, dict[str, Any]], config: Config) -> str:
    """The report."""
    evidence = {name: made for name, made in rows.items() if "temperatures" in made}
    elbos = {name: made for name, made in rows.items() if "components" in made}
    shares = [made[name] for made in evidence.values() for name in HOLDS]
    shares += [made["holds"] for made in elbos.values()]
    head = [
        "# Known evidence",
        "",
        f"`python -m experiments.known_evidence`; {config.num_data} simulated data a row, "
        f"{config.samples} importance samples, {config.chains} chains. "
        "Errors are mean bounds less the truth, in nats per datum; a bracket holds where "
        "lower − 3 s.e. ≤ truth ≤ upper + 3 s.e. "
        f"Of all {len(shares)} brackets and their data, {np.mean(shares):.2%} hold; "
        f"the least share of a row is {min(shares):.0%}.",
        "",
        "",
    ]
    columns = [
        "model; posterior", "T", "importance", "k̂ > 0.7", "holds", "annealing", "reverse", "gap",
        "holds", "seconds",
    ]  # fmt: skip
    lines = [
        [
            name.removeprefix("budget; "), str(made["temperatures"]),
            signed(made["importance_error"]), f"{made['pareto_k_bad']:.0%}",
            f"{made['importance_holds']:.0%}",
            f"{signed(made['lower_error'])} ± {made['lower_standard_error']:.3f}",
            f"{signed(made['upper_error'])} ± {made['upper_standard_error']:.3f}",
            f"{made['gap']:.3f}", f"{made['annealing_holds']:.0%}", f"{made['seconds']:.0f}",
        ]
        for name, made in evidence.items()
    ]  # fmt: skip
    elbo_columns = ["ELBO of a mixture", "lower", "upper", "gap", "holds", "seconds"]
    elbo_lines = [
        [
            name.removeprefix("ELBO; "), signed(made["lower_error"]), signed(made["upper_error"]),
            f"{made['gap']:.4f}", f"{made['holds']:.0%}", f"{made['seconds']:.0f}",
        ]
        for name, made in elbos.items()
    ]  # fmt: skip
    tables = markdown_table(columns, lines) + "\n" + markdown_table(elbo_columns, elbo_lines)
    return "\n".join(head) + tables


def main(config: Config) -> None:
    """Run the parts that are missing, and write the results after each."""
    path = config.out / "known_evidence.json"
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "out"}
    content = json.loads(path.read_text()) if path.exists() else {}
    rows = content.get("rows", {}) if content.get("config") == settings else {}
    for name, run in plan(config):
        if name in rows:
            continue
        rows[name] = run()
        print(name, json.dumps(rows[name]), flush=True)
        write_json(path, {"config": settings, "rows": rows})
    (config.out / "known_evidence.md").write_text(markdown(rows, config))


if __name__ == "__main__":
    main(tyro.cli(Config))
