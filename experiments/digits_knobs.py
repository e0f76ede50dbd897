"""What else can be set about training with a critic, one change at a time, on the digits.

    python -m experiments.digits_knobs

The default cell of `experiments.sensitivity` on the digits, same networks and budget, with one
setting changed that the grid does not vary. Told are lower bounds of log p(x) and of the
ELBO on validation images, and gains over the default with the same seed. Test data are not used.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import avb
from avb import Method
from experiments._grid import OBJECTIVES
from experiments._grid_problems import PROBLEMS, digits
from experiments._results import RESULTS, markdown_table, write_json
from experiments._seeds import one_of, start_runs, train_runs


@dataclasses.dataclass(frozen=True)
class Change:
    """One change: of the settings of training, or of the method.

    Attributes:
        title: In words.
        fit: Fields of ``FitConfig``.
        method: Fields of ``Method``.
    """

    title: str
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    method: dict[str, Any] = dataclasses.field(default_factory=dict)


CHANGES = {
    "default": Change("default"),
    "kl_warmup": Change("`kl_warmup` 0 instead of a fifth", {"kl_warmup": 0.0}),
    "momentum": Change("`momentum` 0.5 instead of 0.9", {"momentum": 0.5}),
    "contrast_draws": Change("`contrast_draws` 1 instead of 4", method={"contrast_draws": 1}),
    "importance_samples": Change(
        "`importance_samples` 5 instead of 1", method={"importance_samples": 5}
    ),
    "hmc_transitions": Change("`hmc_transitions` 4 instead of 0", method={"hmc_transitions": 4}),
    "critic_warmup": Change("`critic_warmup` 90 steps instead of 0", {"critic_warmup": 90}),
    "ema_decay": Change("`ema_decay` 0 instead of 0.999", {"ema_decay": 0.0}),
    "clip_norm": Change("`clip_norm` 20 instead of 500", {"clip_norm": 20.0}),
    "final_rate": Change(
        "`final_rate` and `critic_final_rate` 1 (no schedule)",
        {"final_rate": 1.0, "critic_final_rate": 1.0},
    ),
    "critic_final_rate": Change(
        "`critic_final_rate` 0.05 instead of 0.3", {"critic_final_rate": 0.05}
    ),
    "rate_2": Change("`learning_rate` 2e-3 instead of 1e-3", {"learning_rate": 2e-3}),
    "rates_2": Change(
        "the same, `critic_learning_rate` 4e-3 instead of 2e-3",
        {"learning_rate": 2e-3, "critic_learning_rate": 4e-3},
    ),
    "rate_4": Change("`learning_rate` 4e-3 instead of 1e-3", {"learning_rate": 4e-3}),
    "critic_constant": Change("`critic_final_rate` 1 instead of 0.3", {"critic_final_rate": 1.0}),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        changes: Names; all by default, and always the default first.
        seeds: Seeds of each.
        out: Where results are written, ``.json`` and ``.md``.
    """

    changes: tuple[str, ...] = tuple(CHANGES)
    seeds: tuple[int, ...] = (0, 1)
    out: Path = RESULTS / "digits_knobs"


def run(change: Change, seeds: tuple[int, ...]) -> dict[str, list[float]]:
    """Evidence and ELBO of each seed, not a number where training gave up."""
    problem = PROBLEMS["digits"]
    make = problem.maker(problem.default.structure)
    config = dataclasses.replace(problem.fit, **change.fit)
    data = problem.device_data()
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    number = list(OBJECTIVES).index(problem.default.objective)
    states = start_runs(
        lambda key, chosen: dataclasses.replace(make(key, chosen), **change.method),
        keys,
        data,
        config,
        jnp.full(len(seeds), number),
    )
    states, gave_up = train_runs(states, data, config)
    averaged = eqx.filter_vmap(lambda state: state.averaged)(states)
    methods = [one_of(averaged, index) for index in range(len(seeds))]
    found = {
        "log_evidence": [problem.quality(method) for method in methods],
        "elbo": [elbo_at_least(method) for method in methods],
    }
    return {name: np.where(gave_up, np.nan, values).tolist() for name, values in found.items()}


def elbo_at_least(method: Method) -> float:
    """A lower bound of the ELBO of the posterior with a little noise added to it."""
    lower, _ = avb.smoothed_bracket(
        method.model,
        method.posterior,
        avb.binarise_once(digits().validation, seed=1)[:100],
        key=jax.random.key(8),
        draws=16,
        components=1024,
    )
    return lower.mean


def changed(found: list[float], default: list[float]) -> str:
    """Gains of each seed."""
    return ", ".join(f"{gain:+.2f}" for gain in np.subtract(found, default))


def main(config: Config) -> None:
    """Run what has no result yet, then write the table."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in config.changes:
        if name not in results:
            results[name] = run(CHANGES[name], config.seeds)
            write_json(path, results)
            print(name, results[name], flush=True)
    rows = [
        [
            CHANGES[name].title,
            *(
                text
                for key in ("log_evidence", "elbo")
                for text in (
                    ", ".join(f"{value:.2f}" for value in found[key]),
                    changed(found[key], results["default"][key]),
                )
            ),
        ]
        for name, found in results.items()
    ]
    text = (
        "# Settings that the grid does not vary: digits\n\n`python -m experiments.digits_knobs`; "
        "validation images, nats per datum, "
        f"seeds {', '.join(map(str, config.seeds))}; log p(x) by importance weighting, the ELBO of "
        "the posterior with noise added to it (`smoothed_bracket`, first 100 images); gains over "
        "the default.\n\n"
        + markdown_table(["one change", "log p(x) ≥", "gain", "ELBO of q + noise ≥", "gain"], rows)
    )
    config.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
