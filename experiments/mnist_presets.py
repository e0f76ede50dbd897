"""Every preset on dynamically binarised MNIST: the same networks, data, epochs and evaluation.

Results are kept one file a run, so the command can be interrupted and run again:

    python -m experiments.mnist_presets --data-dir ../shared/data/mnist
    python -m experiments.mnist_presets --data-dir ../shared/data/mnist --latent-dim 32

It prints, and writes beside the results, a table of test ELBO (a bracket where the
posterior is semi-implicit, a labelled estimate where there is only a critic), the
importance-weighted lower bound of log p(x) and seconds an epoch, as mean and range over seeds.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import tyro

import avb
from experiments._results import RESULTS, markdown_table, write_json

METHODS = ("gaussian_vae", "sivi", "avb_adaptive", "avb_self", "flow_vae", "avb", "iwae")
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
        data_dir: Folder of the MNIST files.
        latent_dim: Number of latent dimensions.
        epochs: Epochs of each run.
        seeds: Seeds of each method.
        methods: Presets to compare.
        importance_samples: Samples a test image of the bound of log p(x).
        tabulate_only: Print the table of the results at hand and run nothing.
    """

    data_dir: Path
    latent_dim: int = 8
    epochs: int = 30
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    importance_samples: int = 200
    tabulate_only: bool = False

    @property
    def folder(self) -> Path:
        return RESULTS / f"mnist_presets_d{self.latent_dim}_e{self.epochs}"


def run_one(config: Config, method_name: str, seed: int, data: avb.Dataset) -> dict:
    key_init, key_train, key_test = jax.random.split(jax.random.key(seed), 3)
    pixels = data.train / np.float32(255)
    architecture = avb.Architecture(
        data.data_shape,
        config.latent_dim,
        input_shift=float(pixels.mean()),
        input_scale=float(pixels.std()),
    )
    method = avb.PRESETS[method_name](architecture, key=key_init)
    marks: list[tuple[float, float]] = []

    def mark(progress: avb.Progress) -> None:
        marks.append((time.perf_counter(), progress.epoch))

    result = avb.fit(
        method,
        data.train,
        config=avb.FitConfig(epochs=config.epochs),
        key=key_train,
        on_progress=mark,
    )
    (began, first), (ended, last) = marks[0], marks[-1]
    test = avb.binarise_once(data.test, seed=SPLIT_SEED)
    evaluation = avb.evaluate(
        result.method, test, key=key_test, draws=8, importance_samples=config.importance_samples
    )
    return {
        "method": method_name,
        "seed": seed,
        "latent_dim": config.latent_dim,
        "epochs": config.epochs,
        "seconds_per_epoch": (ended - began) / (last - first),
        "evaluation": evaluation.as_dict(),
        "last_report": result.history[-1],
    }


def spread(values: list[float], digits: int = 2) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def elbo_cell(runs: list[dict]) -> str:
    by_kind: dict[str, list[float]] = {}
    for run in runs:
        for row in run["evaluation"]["rows"]:
            if row["quantity"] == "ELBO":
                by_kind.setdefault(row["kind"], []).append(row["nats_per_datum"])
    return "; ".join(f"{kind}: {spread(values)}" for kind, values in by_kind.items())


def table(config: Config) -> str:
    rows = []
    for method in config.methods:
        files = [config.folder / f"{method}-{seed}.json" for seed in config.seeds]
        runs = [json.loads(file.read_text()) for file in files if file.exists()]
        if not runs:
            continue
        bounds = [run["evaluation"]["rows"][-1]["nats_per_datum"] for run in runs]
        # A run that was paused has no time of its own.
        seconds = [run["seconds_per_epoch"] for run in runs if run["seconds_per_epoch"]]
        time_cell = spread(seconds, 1) if seconds else "–"
        rows.append([f"`{method}`", str(len(runs)), elbo_cell(runs), spread(bounds), time_cell])
    header = ["method", "seeds", "test ELBO", "log p(x) ≥", "seconds / epoch"]
    return markdown_table(header, rows)


def main(config: Config) -> None:
    if not config.tabulate_only:
        data = avb.load_dataset("mnist", data_dir=config.data_dir)
        for seed in config.seeds:
            for method in config.methods:
                path = config.folder / f"{method}-{seed}.json"
                if path.exists():
                    continue
                outcome = run_one(config, method, seed, data)
                write_json(path, outcome)
                rows = outcome["evaluation"]["rows"]
                summary = ", ".join(f"{r['kind']} {r['nats_per_datum']:.2f}" for r in rows)
                seconds = outcome["seconds_per_epoch"]
                print(f"{method} seed {seed}: {summary}; {seconds:.1f} s an epoch", flush=True)
    text = table(config)
    config.folder.mkdir(parents=True, exist_ok=True)
    (config.folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
