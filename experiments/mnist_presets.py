"""Every preset on dynamically binarised MNIST or Fashion-MNIST, each number with its bounds.

The same networks, data and epochs for all. Runs are trained into folders below
``--runs-dir``; what exists is not done again, so the command can be interrupted:

    python -m experiments.mnist_presets --data-dir ../shared/data/mnist
    python -m experiments.mnist_presets --data-dir ../shared/data/mnist --latent-dim 32
    python -m experiments.mnist_presets --data-dir ../shared/data/mnist --network conv
    python -m experiments.mnist_presets --data fashion-mnist --data-dir ../shared/data/fashion-mnist

It prints, and writes beside the results, a table on the first test images: the ELBO
(exact, between two bounds, or a critic's estimate with the verdict on it), log p(x) by
importance weighting and by annealed importance sampling, that sampler's own gap on data
simulated from the model, and how good the posterior is; mean and range over seeds.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import avb
from avb.data import Dataset, load_dataset
from avb.evaluation import EvaluationConfig
from avb.runs import EvaluationSettings, evaluate_run
from avb.training import Outcome
from experiments._distorted import write_with_copies
from experiments._results import RESULTS, markdown_table, spread, write_json

WITH_NOISE_NETWORK = ("sivi", "avb", "avb_adaptive", "avb_self")
WITH_CRITIC = ("avb", "avb_adaptive", "avb_self")
ON_THE_ELBO = ("gaussian_vae", "sivi")
FORMER_FINAL_RATE = 0.05
# Channels and Adam's rates of results whose names tell none.
KEPT_CHANNELS = (16, 32, 32)
KEPT_RATES = (1e-3, 2e-3)
# Of the library's own split.
SPLIT_IMAGES = 50_000
METHODS = ("gaussian_vae", "sivi", "avb_adaptive", "avb_self", "flow_vae", "avb", "iwae")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
        data_dir: Folder of the files of the data.
        data: Which of the two they are of.
        train_images: How many of the 60,000 to train on, the first; the others validate.
        copies: Distorted copies of each training image to train on besides; an epoch is over all.
        latent_dim: Number of latent dimensions.
        prior: N(0, I), or a flow fitted to the run to start from, or kept from it.
        network: Fully connected, or convolutional.
        width: Units of each hidden layer.
        depth: Hidden layers of the fully connected networks.
        channels: Of each convolution.
        noise_width: Units of each hidden layer between noise and draw, of methods that have such a
            network; the library's default where it is not given.
        noise_depth: Hidden layers of that network.
        noise_reach: How far that of an implicit posterior may move a draw, in its scales.
        importance_samples: Draws in the importance-weighted bound that is climbed, of all methods
            but gaussian_vae and sivi; the library's default where it is not given.
        gradient_draws: How many of those draws go back through the networks; by default all.
        hmc_transitions: Hamiltonian transitions before the model learns from draws.
        epochs: Epochs of each run.
        kl_warmup: Epochs over which the weight of log p(z) − log q(z|x) rises from 0 to 1; the
            library's default where it is not given.
        learning_rate: That of ``FitConfig``. Kept results are of 1e-3 unless their names tell.
        critic_learning_rate: The same for 2e-3.
        critic_final_rate: That of ``FitConfig``. Kept results are of 0.05, the default of the time,
            unless their names tell another.
        start_from: Run folder that the one run of one method starts from, in place of random
            networks; its results' names tell no more than that there was one.
        seeds: Seeds of each method.
        methods: Presets to compare.
        num_data: Test images to evaluate on.
        runs_dir: Where the run folders lie.
        tabulate_only: Print the table of the results at hand and run nothing.
    """

    data_dir: Path
    data: Literal["mnist", "fashion-mnist"] = "mnist"
    train_images: int = SPLIT_IMAGES
    copies: int = 0
    latent_dim: int = 8
    prior: Literal["normal", "flow", "kept"] = "normal"
    network: Literal["mlp", "conv"] = "mlp"
    width: int = 300
    depth: int = 2
    channels: tuple[int, ...] = avb.RunConfig.channels
    noise_width: int | None = None
    noise_depth: int | None = None
    noise_reach: float | None = None
    importance_samples: int | None = None
    gradient_draws: int | None = None
    hmc_transitions: int = 0
    epochs: int = 30
    kl_warmup: float | None = None
    learning_rate: float = avb.FitConfig.learning_rate
    critic_learning_rate: float = avb.FitConfig.critic_learning_rate
    critic_final_rate: float = avb.FitConfig.critic_final_rate
    start_from: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    num_data: int = 1000
    runs_dir: Path = Path("runs")
    tabulate_only: bool = False

    def __post_init__(self):
        if self.start_from is not None and len(self.methods) * len(self.seeds) > 1:
            raise ValueError("start_from: expected one method and one seed")

    @property
    def name(self) -> str:
        warmup = self.fit_config.kl_warmup_epochs
        network = "" if self.network == "mlp" else f"_{self.network}"
        sizes = "" if (self.width, self.depth) == (300, 2) else f"_n{self.width}x{self.depth}"
        channels = "-".join(map(str, self.channels))
        sizes += "" if self.channels == KEPT_CHANNELS else f"_c{channels}"
        return f"{self.data}_presets_d{self.latent_dim}_e{self.epochs}_w{warmup:g}{network}{sizes}"

    @property
    def variation(self) -> str:
        """What is not the library's default of some methods, as part of a file's name."""
        changed = self._data_and_prior + self._noise_sizes + self._weights + self._hmc + self._rate
        return changed + self._critic_rates + self._start

    @property
    def _data_and_prior(self) -> str:
        return self.other_images + ("" if self.prior == "normal" else f"_{self.prior}")

    @property
    def other_images(self) -> str:
        """Which training images, if not those of the library's split, as part of a name."""
        images = "" if self.train_images == SPLIT_IMAGES else f"_train{self.train_images}"
        return images + (f"_copies{self.copies}" if self.copies else "")

    @property
    def _start(self) -> str:
        return "" if self.start_from is None else "_started"

    @property
    def _weights(self) -> str:
        back = "" if self.gradient_draws is None else f"_back{self.gradient_draws}"
        return "" if self.importance_samples is None else f"_iw{self.importance_samples}{back}"

    @property
    def _hmc(self) -> str:
        return f"_hmc{self.hmc_transitions}" if self.hmc_transitions else ""

    @property
    def _rate(self) -> str:
        return "" if self.learning_rate == KEPT_RATES[0] else f"_rate{self.learning_rate:g}"

    @property
    def _critic_rates(self) -> str:
        rate, share = self.critic_learning_rate, self.critic_final_rate
        changed = "" if rate == KEPT_RATES[1] else f"_critic{rate:g}"
        return changed + ("" if share == FORMER_FINAL_RATE else f"_final{share:g}")

    @property
    def _noise_sizes(self) -> str:
        reach = "" if self.noise_reach is None else f"_reach{self.noise_reach:g}"
        if (self.noise_width, self.noise_depth) == (None, None):
            return reach
        return f"_noise{self.noise_width or ''}x{self.noise_depth or ''}{reach}"

    def run_name(self, method: str, seed: int) -> str:
        """Of a run and its results, within the folder of those of the same networks."""
        sizes = self._noise_sizes if method in WITH_NOISE_NETWORK else ""
        weights = "" if method in ON_THE_ELBO else self._weights
        rates = self._rate + (self._critic_rates if method in WITH_CRITIC else "")
        changed = f"{sizes}{weights}{self._hmc}{rates}{self._start}"
        return f"{method}{self._data_and_prior}{changed}-{seed}"

    @property
    def fit_config(self) -> avb.FitConfig:
        """The library's settings of training but for epochs, warm-up and rates."""
        return avb.FitConfig(
            epochs=self.epochs,
            kl_warmup=0.0 if self.start_from and self.kl_warmup is None else self.kl_warmup,
            learning_rate=self.learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            critic_final_rate=self.critic_final_rate,
        )


def resplit(dataset: Dataset, train_images: int) -> Dataset:
    """The data set with another number of training images, the first; the others validate."""
    images = np.concatenate([dataset.train, dataset.validation])
    if not 0 < train_images < len(images):
        raise SystemExit(
            f"--train-images: expected 1 to {len(images) - 1}, the others to validate, "
            f"got {train_images}"
        )
    return dataclasses.replace(
        dataset, train=images[:train_images], validation=images[train_images:]
    )


def data_source(config: Config) -> dict[str, str]:
    """The folder of the data, or the file of another split or of copies, written if missing."""
    if not config.other_images:
        return {"data": config.data, "data_dir": str(config.data_dir)}
    path = config.runs_dir / f"{config.data}{config.other_images}.npz"
    if not path.exists():
        dataset = load_dataset(config.data, data_dir=config.data_dir)
        write_with_copies(resplit(dataset, config.train_images), config.copies, path)
    return {"data": str(path)}


def train(config: Config, method: str, seed: int, run_dir: Path) -> None:
    """Train, or go on with a run that was interrupted."""
    if (run_dir / "config.json").exists():
        result = avb.resume_run(run_dir)
    else:
        run_config = avb.RunConfig(
            **data_source(config),
            method=method,
            start_from=config.start_from and str(config.start_from),
            seed=seed,
            latent_dim=config.latent_dim,
            prior=config.prior,
            network=config.network,
            width=config.width,
            depth=config.depth,
            channels=config.channels,
            noise_width=config.noise_width,
            noise_depth=config.noise_depth,
            noise_reach=config.noise_reach,
            importance_samples=None if method in ON_THE_ELBO else config.importance_samples,
            gradient_draws=None if method in ON_THE_ELBO else config.gradient_draws,
            hmc_transitions=config.hmc_transitions,
            fit=config.fit_config,
        )
        result = avb.train_run(run_config, run_dir)
    if result.outcome is not Outcome.COMPLETED:
        raise SystemExit(f"{run_dir}: {result.outcome.value}; the same command goes on")


def evaluate(config: Config, run_dir: Path) -> dict:
    settings = EvaluationSettings(
        num_data=config.num_data, precision=EvaluationConfig(importance_samples=2000)
    )
    return evaluate_run(avb.load_run(run_dir), settings)


def select(runs: list[dict], quantity: str, kind: str | None, estimator: str = "") -> list[float]:
    """One number a run that has such a row."""
    return [
        row["nats_per_datum"]
        for run in runs
        for row in run["rows"]
        if row["quantity"] == quantity
        and kind in (None, row["kind"])
        and row["estimator"].startswith(estimator)
    ]


def elbo_cell(runs: list[dict]) -> str:
    """The value, the bracket, or the upper bound alone; means over seeds."""
    exact = select(runs, "ELBO", "exact")
    if exact:
        return spread(exact)
    lower, upper = select(runs, "ELBO", "lower bound"), select(runs, "ELBO", "upper bound")
    if lower:
        return f"in [{np.mean(lower):.2f}, {np.mean(upper):.2f}]"
    return f"≤ {spread(upper)}"


def critic_cell(runs: list[dict]) -> str:
    rows = [row for run in runs for row in run["rows"] if row["estimator"] == "critic of training"]
    if not rows:
        return "–"
    verdict = ""
    for name, finding in (("wrong", "flag"), ("unconfirmed", "doubt")):
        count = sum(finding in row for row in rows)
        verdict += f", {name} in {count} of {len(rows)}" if count else ""
    return spread([row["nats_per_datum"] for row in rows]) + verdict


def table_row(method: str, runs: list[dict]) -> list[str]:
    simulated = "log p(x), simulated data"
    lower = select(runs, simulated, "lower bound")
    upper = select(runs, simulated, "upper bound")
    return [
        f"`{method}`",
        str(len(runs)),
        elbo_cell(runs),
        critic_cell(runs),
        spread(select(runs, "log p(x)", "lower bound", "importance")),
        spread(select(runs, "log p(x)", "lower bound", "annealed")),
        spread([high - low for high, low in zip(upper, lower, strict=True)], 3),
        spread(select(runs, "approximation gap", None)),
        spread(select(runs, "amortisation gap", None)),
        spread(select(runs, "I(x; z)", "exact") or select(runs, "I(x; z)", "lower bound")),
        spread([float(run["active_units"]["active_units"]) for run in runs], 0),
    ]


HEADER = [
    "method",
    "seeds",
    "ELBO",
    'the critic\'s "ELBO"',
    "log p(x) ≥ (IW)",
    "log p(x) ≥ (AIS, first 100)",
    "AIS gap, simulated",
    "approximation gap",
    "amortisation gap",
    "I(x; z) ≥",
    "active units",
]


def table(config: Config) -> str:
    rows = []
    for method in config.methods:
        names = [config.run_name(method, seed) for seed in config.seeds]
        files = [RESULTS / config.name / f"{name}.json" for name in names]
        runs = [json.loads(file.read_text()) for file in files if file.exists()]
        if runs:
            rows.append(table_row(method, runs))
    return markdown_table(HEADER, rows)


def main(config: Config) -> None:
    if not config.tabulate_only:
        for seed in config.seeds:
            for method in config.methods:
                name = config.run_name(method, seed)
                path = RESULTS / config.name / f"{name}.json"
                run_dir = config.runs_dir / config.name / name
                if path.exists():
                    continue
                train(config, method, seed, run_dir)
                began = time.perf_counter()
                document = evaluate(config, run_dir)
                write_json(path, document)
                seconds = time.perf_counter() - began
                print(f"{method} seed {seed}: evaluated in {seconds:.0f} s", flush=True)
    text = table(config)
    (RESULTS / config.name).mkdir(parents=True, exist_ok=True)
    (RESULTS / config.name / f"table{config.variation}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
