"""All 14 posteriordb posteriors, one default configuration, beside NUTS and Gaussian guides.

    python -m experiments.posteriordb_table                 # an hour or two on two cores
    python -m experiments.posteriordb_table --methods avb   # this library alone

Each method runs in its turn in one process, compilation included in its time; NumPyro's guides
have the processor time that avb took. Results of finished runs are kept in one JSON file. Draws
are compared with the reference draws: by the accuracy of a classifier (0.5 is perfect; the band
is where a perfect sampler's would be), by means and by standard deviations in units of the
reference's. Where a reference marginal has a kurtosis above 100, its median and interquartile
range take the moments' place.

The defaults were chosen on eight schools, the Michaelis-Menten model and the Gaussian process,
those of the Gaussian fits also on earn_height, blr and kilpisjarvi; early results of other
sets were seen, but nothing was tuned to them.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
import tyro
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoBNAFNormal, AutoMultivariateNormal, AutoNormal
from numpyro.infer.svi import SVIState
from numpyro.optim import optax_to_numpyro

import avb
from avb.diagnostics import c2st
from experiments import posteriordb
from experiments._results import RESULTS, markdown_table, write_json

DRAWS = 4000
HEAVY_KURTOSIS = 100.0
SVI_CHUNK = 100
GUIDES = {
    "AutoNormal": AutoNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoBNAFNormal": AutoBNAFNormal,
}
METHODS = ("avb", "NUTS", *GUIDES)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
        methods: ``avb``, ``NUTS`` and NumPyro's guides.
        names: Posteriors; all by default.
        seed: Seed of every method.
        again: Run again what has results already.
        out: Where results are written, ``.json`` and ``.md``.
    """

    methods: tuple[str, ...] = METHODS
    names: tuple[str, ...] = tuple(posteriordb.MODELS)
    seed: int = 0
    again: bool = False
    out: Path = RESULTS / "posteriordb"


Sites = dict[str, Any]


def run_avb(model: Callable, data: dict, seed: int) -> tuple[Sites, dict]:
    inference = avb.Inference(model)
    key_run, key_draw = jax.random.split(jax.random.key(seed))
    posterior = inference.run(key_run, **data)
    sites = posterior.sample(key_draw, (DRAWS,))
    return sites, {
        "elbo": dataclasses.asdict(posterior.elbo),
        "importance": dataclasses.asdict(posterior.importance),
        "verdict": str(posterior.verdict),
        "parts": posterior.fit.modes,
        "steps": posterior.fit.steps,
    }


def run_nuts(model: Callable, data: dict, seed: int) -> tuple[Sites, dict]:
    mcmc = MCMC(
        NUTS(model),
        num_warmup=1000,
        num_samples=1000,
        num_chains=4,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), **data, extra_fields=("diverging",))
    return mcmc.get_samples(), {"diverging": int(mcmc.get_extra_fields()["diverging"].sum())}


@jax.jit
def _set_rate(state: SVIState, rate: float) -> SVIState:
    return eqx.tree_at(
        lambda s: s.optim_state[1][1].hyperparams["learning_rate"], state, jnp.asarray(rate)
    )


def run_guide(
    name: str, model: Callable, data: dict, seed: int, budget: float
) -> tuple[Sites, dict]:
    """A guide of NumPyro's, trained until its processor time is spent, compilation included.

    The rate falls to zero with the budget along a cosine: a constant one would leave noise larger
    than the narrowest of these posteriors.
    """
    began = time.process_time()
    guide = GUIDES[name](model)
    peak = 1e-2 if name != "AutoBNAFNormal" else 1e-3
    optimiser = optax_to_numpyro(optax.inject_hyperparams(optax.adam)(learning_rate=peak))
    svi = SVI(model, guide, optimiser, Trace_ELBO())
    key_run, key_draw = jax.random.split(jax.random.key(seed))
    state = svi.init(key_run, **data)
    chunk = jax.jit(
        lambda state: jax.lax.scan(
            lambda s, _: svi.stable_update(s, **data), state, None, length=SVI_CHUNK
        )
    )
    steps, losses = 0, jnp.zeros(1)
    while (spent := (time.process_time() - began) / budget) < 1.0 or steps == 0:
        state = _set_rate(state, 0.5 * peak * (1.0 + np.cos(np.pi * min(spent, 1.0))))
        state, losses = jax.block_until_ready(chunk(state))
        steps += SVI_CHUNK
    params = svi.get_params(state)
    sites = guide.sample_posterior(key_draw, params, sample_shape=(DRAWS,), **data)
    return sites, {"loss": float(np.mean(np.asarray(losses))), "steps": steps, "budget": budget}


def run(
    method: str, model: Callable, data: dict, seed: int, budget: float | None
) -> tuple[Sites, dict]:
    """Draws of all sites and what the method says of itself; guides have avb's processor time."""
    if method == "avb":
        return run_avb(model, data, seed)
    if method == "NUTS":
        return run_nuts(model, data, seed)
    if budget is None:
        raise SystemExit(f"{method}: expected a result of avb, whose time is its budget, got none")
    return run_guide(method, model, data, seed, budget)


def compare(draws: np.ndarray, reference: np.ndarray, seed: int) -> dict:
    """Classifier accuracy and the worst errors of location and scale."""
    if not np.isfinite(draws).all():
        return {"c2st": None, "location": None, "scale": None}
    heavy = scipy.stats.kurtosis(reference) > HEAVY_KURTOSIS
    location, scale = np.mean(reference, axis=0), np.std(reference, axis=0)
    off = np.abs(np.mean(draws, axis=0) - location) / scale
    ratio = np.std(draws, axis=0) / scale
    quartiles, mine = (np.quantile(a, (0.25, 0.5, 0.75), axis=0) for a in (reference, draws))
    width = quartiles[2] - quartiles[0]
    off = np.where(heavy, np.abs(mine[1] - quartiles[1]) / (width / 1.349), off)
    ratio = np.where(heavy, (mine[2] - mine[0]) / width, ratio)
    test = c2st(draws, reference, key=jax.random.key(seed), repetitions=3)
    return {
        **{f"c2st_{k}": v for k, v in test.as_dict().items()},
        "c2st": test.accuracy,
        "location": float(np.max(off)),
        "scale": float(np.max(np.abs(ratio - 1.0))),
    }


def table(results: dict) -> str:
    """The report."""
    header = [
        "posterior", "method", "C2ST", "worst mean (sd)", "worst sd", "seconds", "ELBO", "k",
        "says of itself",
    ]  # fmt: skip
    rows = []
    for name in posteriordb.MODELS:
        for method in ("avb", "NUTS", *GUIDES):
            one = results.get(f"{name}/{method}")
            if one is None:
                continue
            number = lambda value, spec: "–" if value is None else format(value, spec)  # noqa: E731
            bounds = one.get("elbo")
            rows.append(
                [
                    name if method == "avb" else "",
                    method,
                    number(one["c2st"], ".3f"),
                    number(one["location"], ".3f"),
                    number(one["scale"], ".1%"),
                    f"{one['seconds']:.0f}",
                    f"[{bounds['lower']:.3f}, {bounds['upper']:.3f}]" if bounds else "",
                    f"{one['importance']['pareto_k']:.2f}" if bounds else "",
                    one.get(
                        "verdict", f"{one['diverging']} diverging" if "diverging" in one else ""
                    ),
                ]
            )
    return markdown_table(header, rows)


def totals(results: dict) -> str:
    """What all sets say together of each method."""
    lines = []
    for method in ("avb", "NUTS", *GUIDES):
        mine = [v for k, v in results.items() if k.endswith(f"/{method}")]
        if not mine:
            continue
        scores = [v["c2st"] if v["c2st"] is not None else 1.0 for v in mine]
        close = sum(
            v["location"] is not None and v["location"] <= 0.1 and v["scale"] <= 0.1 for v in mine
        )
        lines.append(
            f"- {method}: C2ST ≤ 0.55 on {sum(s <= 0.55 for s in scores)} of {len(mine)}, at most "
            f"{max(scores):.3f}; all means within 0.1 sd and sds within 10% on {close}; "
            f"{sum(v['seconds'] for v in mine):.0f} s wall, {sum(v['cpu'] for v in mine):.0f} s of "
            "processor time in all"
        )
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    folder = posteriordb.data_folder()
    if folder is None:
        raise SystemExit("posteriordb's data: expected a folder, got none; set AVB_POSTERIORDB")
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for method in config.methods:
        for name in config.names:
            if f"{name}/{method}" in results and not config.again:
                continue
            reference = posteriordb.load(folder, name)
            data = posteriordb.arguments(reference.data)
            began, cpu = time.perf_counter(), time.process_time()
            budget = results.get(f"{name}/avb", {}).get("cpu")
            sites, about = run(method, posteriordb.MODELS[name], data, config.seed, budget)
            jax.block_until_ready(sites)
            seconds = time.perf_counter() - began
            cpu = time.process_time() - cpu
            draws = np.asarray(reference.columns(sites), np.float64)
            one = {"seconds": seconds, "cpu": cpu, **about}
            one |= compare(draws, reference.draws, config.seed)
            results[f"{name}/{method}"] = one
            write_json(path, results)
            print(name, method, {k: v for k, v in one.items() if k[:5] != "c2st_"}, flush=True)
    path.with_suffix(".md").write_text(
        "# posteriordb\n\n`python -m experiments.posteriordb_table`; 4,000 draws a method; "
        "seconds include compilation; NumPyro's guides have avb's processor time.\n\n"
        + totals(results)
        + "\n"
        + table(results)
    )
    print(totals(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
