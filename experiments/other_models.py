"""Models that the mixture's defaults were not chosen on, against long chains of NUTS.

    python -m experiments.other_models                          # an hour on one core
    python -m experiments.other_models --names "GARCH(1, 1)"
    python -m experiments.other_models --method self --out mixtures --names horseshoe

The defaults of inference were chosen on some posteriordb sets and on targets of known shape. Here
they meet twelve other models. That a flow is trained where the mixture does not converge, and of
how many layers, came of the three that the mixture alone misses: item response, stochastic
volatility and the horseshoe. The reference is 4 chains of NUTS, of the model with its hierarchies
non-centred, 4,000 draws after 2,000 of warm-up each, every second kept; how far the medians of its
halves are apart is told beside. Compared are the sites as the model has them.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS

from avb import Inference
from avb.diagnostics import c2st
from avb.inference._methods import MethodName
from experiments._other_models import PROBLEMS, Problem
from experiments._results import RESULTS, markdown_table, write_json

DRAWS = 4000
CHAINS, KEPT = 4, 4000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        names: Models; all by default.
        method: Of inference; another one than the default needs an ``out`` of its own.
        seed: Seed of all methods.
        out: Where results are written, ``.json`` and ``.md``.
    """

    names: tuple[str, ...] = tuple(PROBLEMS)
    method: MethodName = "auto"
    seed: int = 0
    out: Path = RESULTS / "other_models"


def columns(sites: dict, like: dict) -> np.ndarray:
    """The sites of one dictionary that another has too, as a table of shape ``(n, columns)``."""
    parts = [np.asarray(sites[name], np.float64) for name in sorted(like)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def reference(problem: Problem, seed: int) -> tuple[dict, dict]:
    """Draws of NUTS, and what it says of itself."""
    mcmc = MCMC(
        NUTS(problem.reference, target_accept_prob=0.95),
        num_warmup=2000,
        num_samples=KEPT,
        num_chains=CHAINS,
        thinning=2,
        chain_method="sequential",
        progress_bar=False,
    )
    clock = time.process_time()
    mcmc.run(jax.random.key(seed), **problem.data, extra_fields=("diverging",))
    chains = mcmc.get_samples(group_by_chain=True)
    rhat = max(float(np.nanmax(split_gelman_rubin(np.asarray(v)))) for v in chains.values())
    diverging = int(mcmc.get_extra_fields()["diverging"].sum())
    about = {"seconds": time.process_time() - clock, "rhat": rhat, "diverging": diverging}
    return mcmc.get_samples(), about


def run(problem: Problem, method: MethodName, seed: int) -> dict:
    """The posterior against NUTS."""
    key_run, key_draw, key_test = jax.random.split(jax.random.key(seed), 3)
    clock = time.process_time()
    posterior = Inference(problem.model, method=method).run(key_run, **problem.data)
    seconds = time.process_time() - clock
    sites = posterior.sample(key_draw, (DRAWS,))
    chain, about = reference(problem, seed)
    free = {k: v for k, v in sites.items() if k in chain}
    mine, theirs = columns(free, free), columns(chain, free)
    # Rows of simplices and of triangular matrices hold constants.
    varies = theirs.std(axis=0) > 1e-12
    mine, theirs = mine[:, varies], theirs[:, varies]
    test = c2st(mine, theirs, key=key_test, repetitions=3)
    low, high = np.quantile(theirs, (0.25, 0.75), axis=0)
    width = (high - low) / 1.349
    halves = (
        np.median(theirs[: len(theirs) // 2], axis=0),
        np.median(theirs[len(theirs) // 2 :], axis=0),
    )
    mine_low, mine_high = np.quantile(mine, (0.25, 0.75), axis=0)
    return {
        "dim": posterior.approximation.dim,
        "c2st": test.accuracy,
        "c2st_null": test.null_band[1],
        "median": float(np.max(np.abs(np.median(mine, 0) - np.median(theirs, 0)) / width)),
        "median_noise": float(np.max(np.abs(halves[0] - halves[1]) / width)),
        "range": float(np.max(np.abs((mine_high - mine_low) / (high - low) - 1.0))),
        "lower": posterior.elbo.lower,
        "upper": posterior.elbo.upper,
        "pareto_k": posterior.importance.pareto_k,
        "effective": posterior.importance.effective / posterior.importance.draws,
        "method": posterior.fit.method,
        "parts": posterior.fit.modes,
        "steps": posterior.fit.steps,
        "converged": posterior.converged,
        "verdict": str(posterior.verdict),
        "seconds": seconds,
        "nuts": about,
    }


def table(results: dict[str, dict]) -> str:
    """The report."""
    header = [
        "model", "d", "kept", "C2ST", "null band up to", "worst median, sds",
        "between NUTS's halves", "worst interquartile range", "bracket", "k", "effective",
        "seconds", "NUTS's seconds", "NUTS R̂, diverging", "says of itself",
    ]  # fmt: skip
    rows = [
        [
            name,
            str(one["dim"]),
            one["method"],
            f"{one['c2st']:.3f}",
            f"{one['c2st_null']:.3f}",
            f"{one['median']:.3f}",
            f"{one['median_noise']:.3f}",
            f"{one['range']:.1%}",
            f"[{one['lower']:.3f}, {one['upper']:.3f}]",
            f"{one['pareto_k']:.2f}",
            f"{one['effective']:.0%}",
            f"{one['seconds']:.0f}",
            f"{one['nuts']['seconds']:.0f}",
            f"{one['nuts']['rhat']:.3f}, {one['nuts']['diverging']}",
            one["verdict"],
        ]
        for name, one in results.items()
    ]
    return markdown_table(header, rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in config.names:
        if name in results:
            continue
        results[name] = run(PROBLEMS[name](), config.method, config.seed)
        write_json(path, results)
        print(name, results[name], flush=True)
    path.with_suffix(".md").write_text(
        "# Models that the mixture's defaults were not chosen on\n\n"
        "`python -m experiments.other_models`; "
        f"{DRAWS:,} draws against 4 chains of NUTS. Medians are in units of the reference's "
        "interquartile range / 1.349; seconds are of processor time, compilation included.\n\n"
        + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
