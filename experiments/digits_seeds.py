"""Do the defaults need luck? Twenty seeds of `avb_adaptive` on the digits, nothing set by hand.

    python -m experiments.digits_seeds
    python -m experiments.digits_seeds --fit.critic-final-rate 0.05
    python -m experiments.digits_seeds --fit.critic-steps 2 --seeds 3 13 16 19

Everything is as `avb train digits` has it: networks of 300 units, d = 8, 50 epochs. The
rule was set before any seed was run. A seed *succeeds* if training ends without a
`TrainingError`, if `judge_critic` calls the critic sound at its default tolerance of 0.05 nats on
the first 50 validation images (fresh critics: two of 600 steps), and if the ELBO by fresh critics
on the same images is at most 0.3 nats below the median over the seeds. Seeds also differ in where
the decoder starts; the exact ELBO of the Gaussian VAE, same seeds, networks and images, says
by how much. Test data are not used.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import avb
from avb import FitConfig
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._standardised import standardised

TOLERANCE = 0.3
JUDGED = 50
FRESH = {"critics": 2, "steps": 600}
METHODS = ("avb_adaptive", "gaussian_vae")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        seeds: Seeds of each.
        methods: Presets; the critic's, and one to compare with.
        samples: Importance samples a datum.
        fit: How to train, by default as the library does.
    """

    seeds: tuple[int, ...] = tuple(range(20))
    methods: tuple[str, ...] = METHODS
    samples: int = 200
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    @property
    def changes(self) -> dict[str, Any]:
        """What is not as the library has it."""
        default = dataclasses.asdict(FitConfig())
        return {k: v for k, v in dataclasses.asdict(self.fit).items() if v != default[k]}

    @property
    def path(self) -> Path:
        """Where results are written, ``.json`` and ``.md``."""
        names = "".join(f"_{name}{value:g}" for name, value in self.changes.items())
        return RESULTS / f"digits_seeds{names}.json"

    @property
    def command(self) -> str:
        """What regenerates the table, seeds and methods aside."""
        options = (f" --fit.{k.replace('_', '-')} {v:g}" for k, v in self.changes.items())
        return "python -m experiments.digits_seeds" + "".join(options)


def run(name: str, seed: int, config: Config, dataset: avb.Dataset) -> dict:
    """One seed of one method, trained and measured."""
    architecture = standardised(dataset.train, latent_dim=8, width=300)
    everything = avb.binarise_once(dataset.validation, seed=1)
    held_out = everything[:JUDGED]
    key_init, key_fit = jax.random.split(jax.random.key(seed))
    key_elbo, key_judge, key_bound = jax.random.split(jax.random.key(1000 + seed), 3)
    method = avb.PRESETS[name](architecture, key=key_init)
    began = time.process_time()
    try:
        fitted = avb.fit(method, dataset.train, config=config.fit, key=key_fit)
    except avb.TrainingError as error:
        return {"seed": seed, "error": str(error)}
    result: dict = {"seed": seed, "seconds": time.process_time() - began}
    method = fitted.method
    model, posterior = method.model, method.posterior
    if method.critic is None:
        elbo = avb.elbo(model, posterior, held_out, key=key_elbo, draws=64)
    else:
        fresh = avb.fresh_critic_elbo(model, posterior, held_out, key=key_elbo, **FRESH)
        elbo = fresh.estimate
        own = avb.critic_elbo(method, held_out, key=key_elbo, draws=64)
        verdict = avb.judge_critic(method, held_out, key=key_judge, fresh=fresh)
        result |= {"critic_elbo": own.mean, "verdict": verdict.as_dict()}
    bound = avb.importance_bound(
        model, posterior, everything, key=key_bound, samples=config.samples, batch_size=100
    )
    return result | {
        "elbo": elbo.mean,
        "elbo_error": elbo.standard_error,
        "log_evidence": bound.mean,
    }


def succeeded(result: dict, median: float) -> bool:
    """By the rule above."""
    if "error" in result or not np.isfinite(result["elbo"]):
        return False
    sound = result["verdict"]["sound"] if "verdict" in result else True
    return sound and result["elbo"] >= median - TOLERANCE


def table(results: dict[str, list[dict]]) -> str:
    """One row a method."""
    header = [
        "method", "seeds", "succeed", "trained", "critic sound", "ELBO", "its standard deviation",
        "log p(x) ≥ (IW)", "critic's ELBO too high by at least", "seconds a seed",
    ]  # fmt: skip
    rows = []
    for name, runs in results.items():
        if not runs:
            continue
        trained = [run for run in runs if "error" not in run]
        column = lambda key, trained=trained: [run[key] for run in trained]  # noqa: E731
        median = float(np.median(column("elbo")))
        judged = [run["verdict"] for run in trained if "verdict" in run]
        high = [verdict["too_high"]["nats"] for verdict in judged]
        rows.append(
            [
                f"`{name}`",
                str(len(runs)),
                f"{sum(succeeded(run, median) for run in runs)} of {len(runs)}",
                str(len(trained)),
                f"{sum(verdict['sound'] for verdict in judged)}" if judged else "–",
                spread(column("elbo"), centre=np.median),
                f"{np.std(column('elbo'), ddof=1):.2f}",
                spread(column("log_evidence"), centre=np.median),
                spread(high, centre=np.median),
                f"{np.mean(column('seconds')):.0f}",
            ]
        )
    return markdown_table(header, rows)


def main(config: Config) -> None:
    """Run the seeds that have no result yet, then write the table."""
    path = config.path
    results = json.loads(path.read_text()) if path.exists() else {}
    dataset = avb.load_dataset("digits")
    for name in config.methods:
        runs = results.setdefault(name, [])
        done = {run["seed"] for run in runs}
        for seed in (seed for seed in config.seeds if seed not in done):
            runs.append(run(name, seed, config, dataset))
            write_json(path, results)
            told = {k: v for k, v in runs[-1].items() if k != "verdict"}
            print(name, told, flush=True)
    seeds = ", ".join(str(run["seed"]) for run in results[config.methods[0]])
    text = (
        f"# Seeds of `avb_adaptive`: digits\n\n`{config.command}`; "
        f"nats per datum, median and range over seeds ({seeds}); ELBO by fresh critics, of the "
        "Gaussian VAE exact, on 50 validation images, log p(x) on 300; what it takes to succeed "
        "is in the command's docstring.\n\n" + table(results)
    )
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
