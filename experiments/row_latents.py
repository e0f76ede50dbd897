"""A latent of its own for every row, from minibatches, against NUTS with those integrated out.

    python -m experiments.row_latents --folder /some/disk

Counts y ~ Poisson(exp(intercept + x · slopes) · frailty), one frailty ~ Gamma(k, k) a row, k
unknown. Given all else y is negative binomial and each frailty Gamma(k + y, k + mean), so that both
the posterior of what the rows share and the draws for a row have a reference: NUTS on the negative
binomial model with all rows in memory, and the gamma's distribution function, by which draws become
uniform. Seconds are of the process, on one core.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy.stats
import tyro
from numpyro.infer import MCMC, NUTS

from avb import Inference
from avb.diagnostics import c2st
from avb.inference import Posterior
from experiments._results import RESULTS, markdown_table, write_json

COVARIATES, BATCH = 3, 100
SHARED = ("intercept", "slopes", "k")
DRAWS, ROWS_CHECKED, ROW_DRAWS = 4000, 100, 1000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        folder: Where the rows are written.
        sizes: Numbers of rows N.
        full: Those at which NUTS also samples every row's latent, for its time.
        seeds: Seeds of each size.
        row_draws: Points of the integral over each row's latent; automatic where not given.
        out: Where results are written, ``.json`` and ``.md``.
    """

    folder: Path
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    full: tuple[int, ...] = (1_000,)
    seeds: int = 2
    row_draws: int | None = None
    out: Path = RESULTS / "row_latents"


def shared_sites(x):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(COVARIATES), 1.0).to_event(1))
    k = numpyro.sample("k", dist.LogNormal(0.0, 1.0))
    return lambda rows: jnp.exp(intercept + rows @ slopes), k


def model(x, y, subsample_size: int | None = BATCH):
    """With the frailties."""
    mean, k = shared_sites(x)
    with numpyro.plate("rows", len(y), subsample_size=subsample_size) as index:
        frailty = numpyro.sample("frailty", dist.Gamma(k, k))
        numpyro.sample("y", dist.Poisson(mean(x[index]) * frailty), obs=y[index])


def collapsed(x, y):
    """Without: they are integrated out."""
    mean, k = shared_sites(x)
    numpyro.sample("y", dist.NegativeBinomial2(mean(x), k), obs=y)


def generate(folder: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariates and counts in files; the same every time."""
    rng = np.random.default_rng(rows)
    folder.mkdir(parents=True, exist_ok=True)
    x = rng.normal(size=(rows, COVARIATES)).astype(np.float32)
    mean = np.exp(0.5 + x @ np.array([0.5, -0.3, 0.2]))
    y = rng.poisson(mean * rng.gamma(1.5, 1 / 1.5, rows)).astype(np.float32)
    for name, array in (("x", x), ("y", y)):
        np.save(folder / f"{name}_{rows}.npy", array)
    paths = [folder / f"{name}_{rows}.npy" for name in ("x", "y")]
    return tuple(np.load(path, mmap_mode="r") for path in paths)  # pyright: ignore


def as_table(sites: dict) -> np.ndarray:
    """Draws of what the rows share, a column each; k in logarithms."""
    return np.column_stack(
        [np.asarray(sites["intercept"]), np.asarray(sites["slopes"]), np.log(sites["k"])]
    )


def run_nuts(which, x: np.ndarray, y: np.ndarray, **kwargs) -> tuple[np.ndarray, float]:
    """4 × 1,000 draws after as many of warm-up, and their seconds."""
    began = time.process_time()
    mcmc = MCMC(
        NUTS(which),
        num_warmup=1000,
        num_samples=1000,
        num_chains=4,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1000), jnp.asarray(np.array(x)), jnp.asarray(np.array(y)), **kwargs)
    return as_table(mcmc.get_samples()), time.process_time() - began


def rows_off(posterior: Posterior, x: np.ndarray, y: np.ndarray) -> dict:
    """Kolmogorov's test of some rows' draws, made uniform by their exact distribution."""
    rows = np.random.default_rng(0).choice(len(y), ROWS_CHECKED, replace=False)
    began = time.process_time()
    sites = posterior.sample_rows(jax.random.key(1), rows, (ROW_DRAWS,))
    seconds = time.process_time() - began
    k = np.asarray(sites["k"], np.float64)[:, None]
    slopes = np.asarray(sites["slopes"], np.float64)
    mean = np.exp(np.asarray(sites["intercept"], np.float64)[:, None] + slopes @ x[rows].T)
    uniform = scipy.stats.gamma.cdf(sites["frailty"], k + y[rows], scale=1 / (k + mean))
    tests = [scipy.stats.kstest(column, "uniform") for column in uniform.T]
    return {
        "rows_worst": max(float(test.statistic) for test in tests),
        "rows_rejected": sum(float(test.pvalue) < 0.05 for test in tests),
        "rows_seconds": seconds,
    }


def run(inference: Inference, x: np.ndarray, y: np.ndarray, nuts: np.ndarray, seed: int) -> dict:
    began = time.process_time()
    posterior = inference.run(jax.random.key(seed), x, y)
    seconds = time.process_time() - began
    draws = as_table(posterior.sample(jax.random.key(seed + 1), (DRAWS,)))
    deviation = nuts.std(0, ddof=1)
    assert posterior.rows is not None
    return {
        "seed": seed,
        "seconds": seconds,
        "c2st": float(c2st(draws, nuts, key=jax.random.key(2)).accuracy),
        "mean": float(np.max(np.abs(draws.mean(0) - nuts.mean(0)) / deviation)),
        "sd": float(np.max(np.abs(draws.std(0, ddof=1) / deviation - 1))),
        "converged": posterior.converged,
        "verdict": str(posterior.verdict),
        "integrals": dataclasses.asdict(posterior.rows.integrals),
        **rows_off(posterior, x, y),
    }


HEADER = [
    "N", "NUTS without frailties, s", "NUTS with, s", "avb, s", "C2ST", "worst mean, sds",
    "worst sd", "points", "shift that it tells, sds", "effective points", "converged",
    f"rows of {ROWS_CHECKED} rejected at 5%", "their draws, s",
]  # fmt: skip


def table(results: dict) -> str:
    rows = []
    for size, parts in results.items():
        runs = parts["runs"]

        def worst(name: str, runs=runs) -> float:
            return max(r[name] for r in runs)

        full = parts.get("full_seconds")
        rows.append(
            [
                f"{int(size):,}",
                f"{parts['nuts_seconds']:.0f}",
                "–" if full is None else f"{full:.0f}",
                " ".join(f"{r['seconds']:.0f}" for r in runs),
                " ".join(f"{r['c2st']:.3f}" for r in runs),
                f"{worst('mean'):.3f}",
                f"{worst('sd'):.1%}",
                " ".join(str(r["integrals"]["draws"]) for r in runs),
                f"{max(r['integrals']['shift'] for r in runs):.3f}",
                f"{min(r['integrals']['effective'] for r in runs):.1%}",
                f"{sum(r['converged'] for r in runs)} of {len(runs)}",
                " ".join(str(r["rows_rejected"]) for r in runs),
                f"{worst('rows_seconds'):.0f}",
            ]
        )
    return markdown_table(HEADER, rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    inference = Inference(model, row_draws=config.row_draws)
    for size in config.sizes:
        parts = results.setdefault(str(size), {"runs": []})
        x, y = generate(config.folder, size)
        if len(parts["runs"]) < config.seeds:
            nuts, parts["nuts_seconds"] = run_nuts(collapsed, x, y)
            if size in config.full and "full_seconds" not in parts:
                _, parts["full_seconds"] = run_nuts(model, x, y, subsample_size=None)
            for seed in range(len(parts["runs"]), config.seeds):
                parts["runs"].append(run(inference, x, y, nuts, seed))
                write_json(path, results)
                print(size, parts["runs"][-1], flush=True)
    path.with_suffix(".md").write_text(
        "# A latent of its own for every row\n\n`python -m experiments.row_latents --folder DIR`; "
        f"minibatches of {BATCH}.\n\n" + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
