"""Error and time against dimension, on targets whose moments and draws are exact.

    python -m experiments.dimension                     # d from 2 to 500
    python -m experiments.dimension --dims 100 --targets "correlated Gaussian"

Errors are of 50,000 draws of the posterior against exact moments; those of as many exact draws
stand beside them, as what no posterior can be better than. The hierarchical targets have d − 2
groups and begin at d = 5.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from avb import Inference
from avb.diagnostics import c2st
from experiments._dimension_targets import TARGETS, Exact
from experiments._results import RESULTS, markdown_table, write_json

DRAWS = 50_000
COMPARED = 1000
FEWEST_DIMS = {"hierarchical, non-centred": 5, "hierarchical, centred": 5}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        dims: Dimensions.
        targets: Names; all by default.
        seeds: Seeds of each.
        out: Where results are written, ``.json``, ``.md`` and ``.png``.
    """

    dims: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 200, 500)
    targets: tuple[str, ...] = tuple(TARGETS)
    seeds: int = 1
    out: Path = RESULTS / "dimension"


def errors(z: np.ndarray, exact: Exact) -> dict[str, float]:
    """Worst mean in sds, worst relative sd, worst entry of the covariance in sds."""
    scale = np.sqrt(np.diag(exact.covariance))
    centred = (z - exact.mean) / scale
    covariance = centred.T @ centred / len(z)
    truth = exact.covariance / np.outer(scale, scale)
    return {
        "mean": float(np.max(np.abs(centred.mean(0)))),
        "sd": float(np.max(np.abs(centred.std(0) - 1.0))),
        "covariance": float(np.max(np.abs(covariance - truth))),
    }


def radius_distance(z: np.ndarray, other: np.ndarray, exact: Exact) -> float:
    """Largest difference of the distribution functions of the whitened lengths."""
    inverse = np.linalg.inv(np.linalg.cholesky(exact.covariance))
    first, second = (np.sort(np.sum(((x - exact.mean) @ inverse.T) ** 2, 1)) for x in (z, other))
    points = np.concatenate([first, second])
    shares = [np.searchsorted(x, points, side="right") / len(x) for x in (first, second)]
    return float(np.max(np.abs(shares[0] - shares[1])))


def run(name: str, dim: int, seed: int) -> dict:
    """One posterior against the truth."""
    exact = TARGETS[name](dim)
    inference = Inference(exact.log_density, dim=dim)
    began, clock = time.process_time(), time.perf_counter()
    key_run, key_draw, key_test = jax.random.split(jax.random.key(seed), 3)
    posterior = inference.run(key_run)
    seconds, wall = time.process_time() - began, time.perf_counter() - clock
    z = np.asarray(posterior.sample_unconstrained(key_draw, (DRAWS,)), np.float64)
    reference = exact.draw(np.random.default_rng(seed), DRAWS)
    test = c2st(z[:COMPARED], reference[: 2 * COMPARED], key=key_test, repetitions=3)
    bounds, found = posterior.elbo, posterior.importance
    return {
        "seed": seed,
        **errors(z, exact),
        "noise": errors(reference, exact),
        "c2st": test.accuracy,
        "c2st_null": test.null_mean,
        "radius": radius_distance(z, reference, exact),
        "width": bounds.upper - bounds.lower,
        "gap": exact.log_z - bounds.lower,
        "gap_error": bounds.lower_error,
        "log_z": found.log_evidence - exact.log_z,
        "log_z_error": found.error,
        "pareto_k": found.pareto_k,
        "effective": found.effective / found.draws,
        "seconds": seconds,
        "wall": wall,
        "steps": posterior.fit.steps,
        "starts": posterior.fit.starts,
        "parts": posterior.fit.modes,
        "converged": posterior.converged,
        "reasons": list(posterior.verdict.reasons),
    }


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    """The report; of several seeds the worst, and the mean time."""
    header = [
        "target", "d", "seeds", "worst mean, sds", "worst sd", "covariance", "C2ST", "radius",
        "log Z − lower bound", "bracket", "log Z error", "k", "parts", "steps", "seconds",
        "says converged",
    ]  # fmt: skip
    rows = []
    for name, dims in results.items():
        for dim in sorted(dims, key=int):
            runs = dims[dim]

            def worst(key: str, runs=runs) -> float:
                return max((r[key] for r in runs), key=abs)

            def noise(key: str, runs=runs) -> float:
                return max(r["noise"][key] for r in runs)

            rows.append(
                [
                    name,
                    dim,
                    str(len(runs)),
                    f"{worst('mean'):.3f} ({noise('mean'):.3f})",
                    f"{worst('sd'):.1%} ({noise('sd'):.1%})",
                    f"{worst('covariance'):.3f} ({noise('covariance'):.3f})",
                    f"{worst('c2st'):.3f} ({worst('c2st_null'):.3f})",
                    f"{worst('radius'):.3f}",
                    f"{worst('gap'):.3f}",
                    f"{worst('width'):.4f}",
                    f"{worst('log_z'):.3f} ± {worst('log_z_error'):.3f}",
                    f"{worst('pareto_k'):.2f}",
                    str(worst("parts")),
                    str(worst("steps")),
                    f"{np.mean([r['seconds'] for r in runs]):.0f}",
                    f"{sum(r['converged'] for r in runs)} of {len(runs)}",
                ]
            )
    return markdown_table(header, rows)


def picture(results: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """Errors and time against d."""
    import matplotlib.pyplot as plt

    panels = {
        "sd": "worst relative error of an sd",
        "mean": "worst error of a mean, sds",
        "gap": "log Z − lower bound, nats",
        "seconds": "processor seconds",
    }
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for name, dims in results.items():
            order = sorted(dims, key=int)
            means = [np.mean([abs(r[key]) for r in dims[dim]]) for dim in order]
            axis.plot([int(dim) for dim in order], means, marker="o", label=name)
        if key in ("sd", "mean"):
            dims = max(results.values(), key=len)
            order = sorted(dims, key=int)
            noise = [np.mean([r["noise"][key] for r in dims[dim]]) for dim in order]
            axis.plot([int(dim) for dim in order], noise, "k:", label="as many exact draws")
        axis.set(xscale="log", yscale="log", xlabel="d", title=title)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report(results: dict, path: Path) -> None:
    """Table and picture."""
    text = table(results)
    path.with_suffix(".md").write_text(
        "# Error and time against dimension\n\n"
        f"`python -m experiments.dimension`; one default configuration; {DRAWS:,} draws against "
        "exact moments, the worst coordinate or entry; in brackets the same of as many exact "
        "draws, and the classifier's accuracy between exact draws. Covariances are in sds; radius "
        "is the largest difference of the distribution functions of whitened lengths. Seconds of "
        "processor time of `run`, compilation included.\n\n"
        f"![Errors and time]({path.stem}.png)\n\n" + text
    )
    picture(results, path.with_suffix(".png"))
    print(text)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {name: {} for name in TARGETS}
    for dim in config.dims:
        for name in config.targets:
            if dim < FEWEST_DIMS.get(name, 1):
                continue
            runs = results.setdefault(name, {}).setdefault(str(dim), [])
            for seed in range(len(runs), config.seeds):
                runs.append(run(name, dim, seed))
                write_json(path, results)
                print(name, dim, seed, runs[-1], flush=True)
    report(results, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))
