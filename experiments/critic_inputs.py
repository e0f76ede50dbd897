"""Would the presets' critics gain by what fresh critics see?

    python -m experiments.critic_inputs --data-dir DIR      # MNIST, d = 8, MLP 300-300, 10 epochs
    python -m experiments.critic_inputs --four-points       # two of that toy's recipes

Fresh critics see features of the datum divided by the root of their number f, and quadratic forms
of z in their blocks (``experiments.shell`` tells why). Here critics are trained beside their
posterior with either, both or neither. MNIST: importance-weighted bound of log p(x), upper bound
of the ELBO by one fresh critic, and the critic's own ELBO, on validation images. Four points: exact
log p(x), a lower bound of the ELBO, and the critic's own. Finished runs are kept.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import cast

import equinox as eqx
import jax
import tyro

import avb
from avb import Method
from avb._types import Key
from avb.critics import ResidualCritic
from experiments import four_point
from experiments._four_point import RECIPES
from experiments._regularised import DividedCritic
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._standardised import standardised

INPUTS = {
    "features as they are, z": (ResidualCritic, False),
    "features / √f, z": (DividedCritic, False),
    "features as they are, z and forms": (ResidualCritic, True),
    "features / √f, z and forms": (DividedCritic, True),
}
TOY_METHODS = ("critic", "critic-semi-learned")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
        data_dir: Folder of the MNIST files.
        four_points: That toy in place of MNIST.
        methods: Presets.
        epochs: Of MNIST.
        seeds: Of each; of the toy twice as many.
        num_data: Validation images.
    """

    data_dir: Path = Path()
    four_points: bool = False
    methods: tuple[str, ...] = ("avb_adaptive", "avb_self")
    epochs: int = 10
    seeds: int = 3
    num_data: int = 500

    @property
    def path(self) -> Path:
        data = "four_points" if self.four_points else f"mnist_e{self.epochs}"
        return RESULTS / f"critic_inputs_{data}.json"


def with_inputs(method: Method, inputs: str, key: Key) -> Method:
    """The method with a critic of the same sizes that sees something else."""
    cls, quadratic = INPUTS[inputs]
    old = cast(ResidualCritic, method.critic)
    sizes = {"width": old.width, "depth": len(old.blocks)}
    features, latent_dim = int(old.datum.in_features), int(old.latent.in_features)
    critic = cls(features, latent_dim, **sizes, quadratic=quadratic, key=key)
    return eqx.tree_at(lambda method: method.critic, method, critic)


def on_mnist(name: str, inputs: str, seed: int, config: Config, dataset: avb.Dataset) -> dict:
    """One run, trained and measured."""
    held_out = avb.binarise_once(dataset.validation[: config.num_data], seed=1)
    key_init, key_fit, key_bound, key_fresh = jax.random.split(jax.random.key(seed), 4)
    architecture = standardised(dataset.train, latent_dim=8, width=300)
    method = with_inputs(avb.PRESETS[name](architecture, key=key_init), inputs, key_init)
    fit = avb.FitConfig(epochs=config.epochs, kl_warmup=0.0)
    method = avb.fit(method, dataset.train, config=fit, key=key_fit).method
    parts = method.model, method.posterior, held_out
    bound = avb.importance_bound(*parts, key=key_bound, samples=500)
    fresh = avb.fresh_critic_elbo(*parts, key=key_fresh, critics=1)
    own = avb.critic_elbo(method, held_out, key=key_fresh, draws=64)
    return {"log p(x) ≥ (IW)": bound.mean, "ELBO ≤": fresh.upper.mean, "critic's ELBO": own.mean}


def on_four_points(name: str, inputs: str, config: Config) -> list[dict]:
    """All seeds of one recipe."""
    recipe = RECIPES[name]
    make = lambda key: with_inputs(recipe.make(key), inputs, key)  # noqa: E731
    settings = four_point.Config(seeds=2 * config.seeds)
    runs = four_point.run(dataclasses.replace(recipe, make=make), settings)
    columns = {
        "log p(x)": "log_evidence",
        "lower bound of the ELBO": "lower",
        "critic's ELBO": "training_elbo",
    }
    return [{column: run[key] for column, key in columns.items()} for run in runs]


def table(results: dict[str, list[dict]], decimals: int) -> str:
    """One row for each method and what its critic sees."""
    columns = list(next(iter(results.values()))[0])
    rows = []
    for name, runs in results.items():
        spreads = [spread([run[column] for run in runs], decimals) for column in columns]
        rows.append([*name.split(": "), str(len(runs)), *spreads])
    return markdown_table(["method", "critic sees", "seeds", *columns], rows)


def main(config: Config) -> None:
    results = json.loads(config.path.read_text()) if config.path.exists() else {}

    def add(name: str, runs: list[dict]) -> None:
        results.setdefault(name, []).extend(runs)
        write_json(config.path, results)
        print(name, runs, flush=True)

    if config.four_points:
        for method in TOY_METHODS:
            for inputs in INPUTS:
                name = f"{RECIPES[method].title}: {inputs}"
                if name not in results:
                    add(name, on_four_points(method, inputs, config))
    else:
        dataset = avb.load_dataset("mnist", data_dir=config.data_dir)
        run = partial(on_mnist, config=config, dataset=dataset)
        for method in config.methods:
            for inputs in INPUTS:
                name = f"`{method}`: {inputs}"
                for seed in range(len(results.get(name, [])), config.seeds):
                    add(name, [run(method, inputs, seed)])
    text = table(results, 4 if config.four_points else 2)
    config.path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
