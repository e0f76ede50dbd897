"""One posterior for all data sets: eight schools and a Gaussian mixture, against NUTS.

    python -m experiments.amortised                      # both models
    python -m experiments.amortised --models schools --steps 5000

Each model is trained once on simulations. Then: simulation-based calibration over 1,000 further
ones (ranks of each coordinate and of log p(z, x); the test is that of Säilynoja, Bürkner & Vehtari
2022, with Holm's correction, at 5%), and, on 20 more, the accuracy of a classifier that tells draws
from NUTS's, plain and resampled by importance weights.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import tyro
from numpyro import handlers
from numpyro.infer import MCMC, NUTS

from avb import AmortisedInference
from avb.diagnostics import c2st
from avb.inference._amortiser import Simulations
from avb.posteriors import FlowPosterior, MixturePosterior
from experiments._results import RESULTS, markdown_table, spread, write_json

SIMULATIONS = 1000
DATA_SETS = 20
HELD_OUT = 5000
DRAWS = 1000
POINTS = 30
POSTERIORS = {"mixture": MixturePosterior, "flow": FlowPosterior}


def schools():
    """Eight schools, non-centred, of which the errors differ from one data set to the next."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.LogNormal(2.5, 0.3))
        theta = numpyro.deterministic("theta", mu + tau * trans)
        numpyro.sample("y", dist.Normal(theta, sigma))


def mixture():
    """Two Gaussians of one width, with their labels free to switch: two modes at least."""
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    width = numpyro.sample("width", dist.LogNormal(0.0, 0.3))
    both = dist.Normal(mu, width)
    weights = dist.Categorical(jnp.stack([weight, 1.0 - weight]))
    with numpyro.plate("points", POINTS):
        numpyro.sample("y", dist.MixtureSameFamily(weights, both))


class Case(NamedTuple):
    """A model, its data, and what NUTS needs."""

    model: Callable
    observed: tuple[str, ...]
    summary: Callable | None
    both_labels: bool


CASES = {
    "schools": Case(schools, ("y", "sigma"), None, both_labels=False),
    "mixture": Case(mixture, ("y",), lambda data: jnp.sort(data["y"]), both_labels=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        models: Which models.
        posteriors: Families of q(z|x) to compare; the first is calibrated and held to NUTS.
        steps: Steps of training.
        out: Where results are written, ``.json`` and ``.md``.
    """

    models: tuple[str, ...] = tuple(CASES)
    posteriors: tuple[str, ...] = ("mixture",)
    steps: int = 20_000
    out: Path = RESULTS / "amortised"


def train(case: Case, family: str, steps: int) -> tuple[AmortisedInference, dict]:
    """A trained posterior, with its time and mean log density on held-out simulations."""
    summary = {} if case.summary is None else {"summary": case.summary}
    amortised = AmortisedInference(
        case.model, observed=case.observed, posterior=POSTERIORS[family], **summary
    )
    began = time.process_time()
    amortised.fit(jax.random.key(0), steps=steps)
    seconds = time.process_time() - began
    simulations = Simulations(amortised.simulator.simulate, amortised.summary)
    pairs = jax.jit(simulations, static_argnums=1)(jax.random.key(1), HELD_OUT)
    amortiser = amortised.amortiser
    logs = np.asarray(jax.jit(jax.vmap(amortiser.log_prob))(pairs.x, pairs.z), np.float64)
    return amortised, {
        "steps": steps,
        "seconds": seconds,
        "log_q": float(logs.mean()),
        "log_q_error": float(logs.std() / np.sqrt(HELD_OUT)),
    }


def nuts(case: Case, mcmc: MCMC, data: dict, key: jax.Array) -> tuple[np.ndarray, float]:
    """Unconstrained draws of NUTS, thinned to 2,000, and its seconds."""
    began = time.process_time()
    key_run, key_labels = jax.random.split(key)
    mcmc.run(key_run, data)
    seconds = time.process_time() - began
    found = {k: np.asarray(v, np.float64) for k, v in mcmc.get_samples().items()}
    if not case.both_labels:
        columns = [found["mu"][:, None], np.log(found["tau"])[:, None], found["theta_trans"]]
        return np.concatenate(columns, axis=1), seconds
    # One chain sees one order of the labels; both are equally likely.
    swap = np.asarray(jax.random.bernoulli(key_labels, shape=(len(found["weight"]),)))
    mu = np.where(swap[:, None], found["mu"][:, ::-1], found["mu"])
    weight = np.where(swap, 1 - found["weight"], found["weight"])
    logit = np.log(weight) - np.log1p(-weight)
    return np.column_stack([mu, logit, np.log(found["width"])]), seconds


def against_nuts(
    case: Case, amortised: AmortisedInference, results: list[dict], save: Callable[[], None]
) -> None:
    """C2ST on further data sets; the same draws of NUTS for both ways to draw."""

    def conditioned(data):
        return handlers.condition(case.model, data=data)()

    mcmc = MCMC(
        NUTS(conditioned, target_accept_prob=0.95),
        num_warmup=1000,
        num_samples=4000,
        thinning=2,
        num_chains=1,
        progress_bar=False,
        jit_model_args=True,
    )
    simulate = jax.jit(amortised.simulator.simulate)
    for index, key in enumerate(jax.random.split(jax.random.key(2), DATA_SETS)):
        keys = jax.random.split(key, 5)
        _, data = simulate(keys[0])
        reference, seconds = nuts(case, mcmc, data, keys[1])
        posterior = amortised.posterior(data)
        began = time.perf_counter()
        plain = np.asarray(posterior.sample_unconstrained(keys[2], (DRAWS,)))
        took = time.perf_counter() - began
        found = posterior.importance
        row = {"nuts_seconds": seconds, "milliseconds": 1e3 * took, "pareto_k": found.pareto_k}
        row["effective"] = found.effective / found.draws
        draws = {"plain": plain}
        if found.trusted:
            draws["resampled"] = np.asarray(
                posterior.sample_unconstrained(keys[3], (DRAWS,), resample=True)
            )
        for name, z in draws.items():
            test = c2st(z, reference, key=keys[4], repetitions=3)
            row[name], row["null"] = test.accuracy, test.null_mean
        results.append(row)
        save()
        print(index, row, flush=True)


def run(config: Config, name: str, parts: dict, save: Callable[[], None]) -> None:
    """What has no result yet of one model."""
    case = CASES[name]
    families = parts.setdefault("families", {})
    for index, family in enumerate(config.posteriors):
        if family in families and (index > 0 or len(parts.get("nuts", [])) == DATA_SETS):
            continue
        amortised, families[family] = train(case, family, config.steps)
        print(name, family, families[family], flush=True)
        save()
        if index == 0:
            for way in ("plain", "resampled"):
                calibration = amortised.calibration(
                    jax.random.key(3), simulations=SIMULATIONS, resample=way == "resampled"
                )
                values = calibration.uniformity.adjusted_p_values
                found = dict(zip(calibration.names, values.tolist(), strict=True))
                parts[f"calibration_{way}"] = found
                print(way, found, flush=True)
                save()
            parts["nuts"] = []
            against_nuts(case, amortised, parts["nuts"], save)


def calibrated(p_values: dict[str, float]) -> tuple[str, str]:
    """Smallest adjusted p of the coordinates, and that of log p(z, x)."""
    last = p_values["log p(z, x)"]
    return f"{min(p for name, p in p_values.items() if '(' not in name):.3f}", f"{last:.4f}"


def table(results: dict) -> str:
    """The report."""
    header = [
        "model", "steps", "training, s", "E log q, mixture", "E log q, flow", "SBC p, coordinates",
        "SBC p, log p(z, x)", "coordinates, resampled", "log p(z, x), resampled",
        "C2ST, mean (range)", "resampled", "NUTS with itself", "k ≤ 0.7", "ms for 1,000 draws",
        "NUTS, s",
    ]  # fmt: skip
    rows = []
    for name, part in results.items():
        if "nuts" not in part:
            continue
        runs = part["nuts"]

        def two_sample(key: str, runs=runs) -> str:
            return spread((r[key] for r in runs if key in r), 3)

        def log_q(family: str, part=part) -> str:
            found = part["families"].get(family)
            return f"{found['log_q']:.2f} ± {found['log_q_error']:.2f}" if found else "–"

        rows.append(
            [
                name,
                f"{part['families']['mixture']['steps']:,}",
                f"{part['families']['mixture']['seconds']:.0f}",
                log_q("mixture"),
                log_q("flow"),
                *calibrated(part["calibration_plain"]),
                *calibrated(part["calibration_resampled"]),
                two_sample("plain"),
                two_sample("resampled"),
                two_sample("null"),
                f"{sum('resampled' in r for r in runs)} of {len(runs)}",
                f"{np.median([r['milliseconds'] for r in runs]):.0f}",
                f"{np.median([r['nuts_seconds'] for r in runs]):.1f}",
            ]
        )
    return markdown_table(header, rows)


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in config.models:
        run(config, name, results.setdefault(name, {}), lambda: write_json(path, results))
    path.with_suffix(".md").write_text(
        "# One posterior for all data sets\n\n`python -m experiments.amortised`: "
        f"steps of 256 simulations each; calibration over {SIMULATIONS:,} data sets "
        "(ECDF bands, Holm's correction, uniform if p > 0.05); a classifier against NUTS on "
        f"{DATA_SETS}. Times on one core of two that were shared.\n\n" + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
