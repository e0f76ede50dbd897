"""Logistic regression on up to ten million rows of a mapped file, against NUTS and Laplace.

    python -m experiments.large_logistic --folder /some/disk        # 0.9 GB there, deleted after
    python -m experiments.large_logistic --folder /some/disk --sizes 10000

For each number of rows N: time of a training step, resident memory (private and of the mapped
file), seconds in all; and the posterior against draws of NUTS on all rows (``--nuts`` sizes) or
against the Laplace approximation in float64, whose distance from the posterior falls as 1/√N.
Times are of the process, on one core: others' work does not count.
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
import tyro
from numpyro.infer import MCMC, NUTS

from avb import Inference
from avb.diagnostics import c2st
from experiments._results import RESULTS, markdown_table, spread, write_json

COVARIATES = 19
BATCH = 1000
DRAWS = 20_000
# Rows that the script itself holds at once.
CHUNK = 100_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        folder: Where the rows are written, and deleted again.
        sizes: Numbers of rows N.
        nuts: Those at which NUTS sees all rows, 4 × 1,000 draws after as many of warm-up.
        timed: Those at which one chain of 100 draws after 100 tells how long that would take.
        seeds: Seeds of each size.
        out: Where results are written, ``.json`` and ``.md``.
    """

    folder: Path
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    nuts: tuple[int, ...] = (10_000,)
    timed: tuple[int, ...] = (100_000,)
    seeds: int = 3
    out: Path = RESULTS / "large_logistic"


def model(x, y, subsample_size: int | None = BATCH):
    """Logistic regression with an intercept."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(COVARIATES), 2.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=subsample_size) as index:
        logits = intercept + x[index] @ slopes
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y[index])


def generate(folder: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated covariates and outcomes, drawn chunk by chunk into files; the same every time."""
    rng = np.random.default_rng(rows)
    slopes = rng.normal(0.0, 0.5, COVARIATES)
    mix = np.eye(COVARIATES) + 0.3 * rng.normal(size=(COVARIATES, COVARIATES))
    paths = [folder / f"{name}_{rows}.npy" for name in ("x", "y")]
    folder.mkdir(parents=True, exist_ok=True)
    shapes = [(rows, COVARIATES), (rows,)]
    files = [
        np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for path, shape in zip(paths, shapes, strict=True)
    ]
    for start in range(0, rows, CHUNK):
        stop = min(start + CHUNK, rows)
        x = rng.normal(size=(stop - start, COVARIATES)) @ mix
        files[0][start:stop] = x
        files[1][start:stop] = rng.random(stop - start) < 1 / (1 + np.exp(1.0 - x @ slopes))
    for file in files:
        file.flush()
    del files
    return tuple(np.load(path, mmap_mode="r") for path in paths)  # pyright: ignore


def laplace(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mode and covariance by Newton's method, in float64, chunk by chunk."""
    precision = np.diag([1 / 25.0] + [1 / 4.0] * COVARIATES)
    z = np.zeros(COVARIATES + 1)
    for _ in range(20):
        slope, curvature = -precision @ z, precision.copy()
        for start in range(0, len(y), CHUNK):
            rows = np.array(x[start : start + CHUNK], np.float64)
            rows = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
            p = 1 / (1 + np.exp(-rows @ z))
            slope += rows.T @ (y[start : start + CHUNK] - p)
            curvature += (rows * (p * (1 - p))[:, None]).T @ rows
        step = np.linalg.solve(curvature, slope)
        z = z + step
        if step @ curvature @ step < 1e-12:
            break
    return z, np.linalg.inv(curvature)


def run_nuts(
    x: np.ndarray, y: np.ndarray, key: jax.Array, chains: int, draws_each: int
) -> tuple[np.ndarray, float]:
    """Draws of chains on all rows, and their seconds."""
    began = time.process_time()
    kernel = NUTS(model)
    mcmc = MCMC(
        kernel,
        num_warmup=draws_each,
        num_samples=draws_each,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(key, jnp.asarray(np.array(x)), jnp.asarray(np.array(y)), subsample_size=None)
    found = mcmc.get_samples()
    draws = np.concatenate([np.asarray(found["intercept"])[:, None], found["slopes"]], axis=1)
    return draws, time.process_time() - began


def memory() -> dict[str, float]:
    """Resident memory in MiB, private and of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def compare(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
    """Worst mean and sd, in reference sds; correlations by the largest eigenvalue's excess."""
    deviation = np.sqrt(np.diagonal(covariance))
    white = np.linalg.solve(np.linalg.cholesky(covariance), np.cov(draws.T))
    white = np.linalg.solve(np.linalg.cholesky(covariance), white.T)
    values = np.linalg.eigvalsh(white)
    return {
        "mean": float(np.max(np.abs(draws.mean(0) - mean) / deviation)),
        "sd": float(np.max(np.abs(draws.std(0, ddof=1) / deviation - 1))),
        "variance": float(np.max(np.abs(values - 1))),
    }


def run(inference: Inference, x: np.ndarray, y: np.ndarray, seed: int) -> tuple[dict, np.ndarray]:
    """One posterior, with times and memory."""
    marks, most = [], {"RssAnon": 0.0, "RssFile": 0.0}

    def progress(*_: int) -> None:
        marks.append(time.process_time())
        for name, value in memory().items():
            most[name] = max(most[name], value)

    key_run, key_draw = jax.random.split(jax.random.key(seed))
    began = time.process_time()
    posterior = inference.run(key_run, x, y, progress=progress)
    seconds = time.process_time() - began
    sites = posterior.sample(key_draw, (DRAWS,))
    draws = np.concatenate([np.asarray(sites["intercept"])[:, None], sites["slopes"]], axis=1)
    return {
        "seed": seed,
        "seconds": seconds,
        "start_seconds": marks[0] - began,
        # The first stretch is compiled in its own time.
        "step_ms": float(np.median(np.diff(marks))) / 500 * 1e3,
        "steps": posterior.fit.steps,
        "private_mib": most["RssAnon"],
        "mapped_mib": most["RssFile"],
        "lower": posterior.elbo.lower,
        "upper": posterior.elbo.upper,
        "log_evidence": posterior.importance.log_evidence,
        "evidence_error": posterior.importance.error,
        "pareto_k": posterior.importance.pareto_k,
        "converged": posterior.converged,
        "verdict": str(posterior.verdict),
    }, draws


def one_size(config: Config, rows: int, parts: dict, save) -> None:
    """All seeds of one N, and the references."""
    x, y = generate(config.folder, rows)
    try:
        mean, covariance = laplace(x, y)
        inference = Inference(model)
        chain = None
        if rows in config.nuts:
            chain, parts["nuts_seconds"] = run_nuts(x, y, jax.random.key(1000), 4, 1000)
            parts["nuts_laplace"] = compare(chain, mean, covariance)
        if rows in config.timed:
            _, seconds = run_nuts(x, y, jax.random.key(1000), 1, 100)
            parts["nuts_scaled"] = 40 * seconds
        for seed in range(len(parts["runs"]), config.seeds):
            found, draws = run(inference, x, y, seed)
            reference = mean, covariance
            exact = np.random.default_rng(seed).multivariate_normal(mean, covariance, 4000)
            if chain is not None:
                reference = chain.mean(0), np.cov(chain.T)
                found["laplace"] = compare(draws, mean, covariance)
            found["reference"] = compare(draws, *reference)
            other = exact if chain is None else chain
            test = c2st(draws[:4000], other, key=jax.random.key(seed), repetitions=3)
            found["c2st"], found["c2st_null"] = test.accuracy, test.null_band
            parts["runs"].append(found)
            save()
            print(rows, found, flush=True)
    finally:
        for path in config.folder.glob(f"[xy]_{rows}.npy"):
            path.unlink()


def table(results: dict) -> str:
    """The report."""
    header = [
        "rows", "seeds", "ms a step", "start, s", "all, s", "NUTS, s", "private MiB",
        "mapped MiB", "against", "C2ST", "worst mean, sds", "worst sd", "bracket, nats wide",
        "k", "converged",
    ]  # fmt: skip
    rows = []
    for size, part in sorted(results.items(), key=lambda item: int(item[0])):
        runs = part["runs"]
        if not runs:
            continue
        column = lambda name, digits, runs=runs: spread([r[name] for r in runs], digits)  # noqa: E731
        with_nuts = "nuts_seconds" in part
        chain = f"{part['nuts_seconds']:.0f}" if with_nuts else "–"
        if "nuts_scaled" in part:
            chain = f"≈ {part['nuts_scaled']:.0f}"
        rows.append(
            [
                f"{int(size):,}",
                str(len(runs)),
                column("step_ms", 1),
                column("start_seconds", 0),
                column("seconds", 0),
                chain,
                column("private_mib", 0),
                column("mapped_mib", 0),
                "NUTS" if with_nuts else "Laplace",
                column("c2st", 3),
                spread([r["reference"]["mean"] for r in runs], 3),
                spread([r["reference"]["sd"] for r in runs], 3),
                spread([r["upper"] - r["lower"] for r in runs], 4),
                column("pareto_k", 2),
                str(sum(r["converged"] for r in runs)),
            ]
        )
    return markdown_table(header, rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for rows in config.sizes:
        parts = results.setdefault(str(rows), {"runs": []})
        if len(parts["runs"]) < config.seeds:
            one_size(config, rows, parts, lambda: write_json(path, results))
    path.with_suffix(".md").write_text(
        "# Logistic regression on a mapped file\n\n`python -m experiments.large_logistic`: "
        f"{COVARIATES + 1} coefficients, minibatches of {BATCH} rows, processor seconds on one "
        "core of two that were shared, mean and range over seeds; NUTS by 4 × 1,000 draws after as "
        "many of warm-up, ≈ where a fortieth of that was run. The start is all before and "
        "with the first 500 steps, compilation included.\n\n" + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
