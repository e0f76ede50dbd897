"""What a critic costs: processor time to a held-out bound, against the other methods.

    python -m experiments.cost                                       # digits
    python -m experiments.cost --data mnist --data-dir DIR --epochs 50

The same networks, data and schedule for all methods. One seed's methods take turns, a few epochs
each, so that what else the machine does slows all of them alike. Only the compiled steps of
training are timed: compiling is timed apart (a run of no steps), evaluation not at all. At each
mark the averaged parameters are judged by the importance-weighted lower bound of log p(x) on
validation data, the same for all methods. Levels are the best of the Gaussian VAE of the
same seed, less so many nats; the time to one is interpolated between marks. Test data are not
used.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro

import avb
from avb import FitConfig, Method
from avb.training import DeviceData, init, run
from avb.training._step import Inputs
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._standardised import standardised

REFERENCE = "gaussian_vae"
METHODS = (REFERENCE, "avb_adaptive", "avb", "sivi", "flow_vae")
LEVELS = (2.0, 1.0, 0.5, 0.1)
# Of a run, denser where the bound moves fast.
MARKS = tuple(0.03 * (1 / 0.03) ** (share / 11) for share in range(12))


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        data: ``digits`` or ``mnist``.
        data_dir: Folder of the MNIST files.
        latent_dim: Number of latent dimensions.
        width: Units of each hidden layer.
        epochs: Epochs of each run; by default 100 of the digits, 30 of MNIST.
        seeds: Seeds.
        methods: Presets.
        num_data: Validation data for the bound.
        samples: Importance samples a datum.
    """

    data: str = "digits"
    data_dir: Path | None = None
    latent_dim: int = 8
    width: int = 300
    epochs: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    num_data: int = 200
    samples: int = 200

    @property
    def passes(self) -> int:
        return self.epochs or (100 if self.data == "digits" else 30)

    @property
    def command(self) -> str:
        """What reads the same data."""
        options = "" if self.data == "digits" else f" --data {self.data} --data-dir DIR"
        return f"python -m experiments.cost{options}"

    @property
    def path(self) -> Path:
        name = f"cost_{self.data}_d{self.latent_dim}_w{self.width}_e{self.passes}"
        return RESULTS / f"{name}.json"


class Racer:
    """One method on its way, with the processor time that it has used.

    Attributes:
        seconds: Processor seconds of training, without compiling.
        compiling: Processor seconds of compiling it.
    """

    def __init__(self, method: Method, data: DeviceData, config: FitConfig, key):
        self.data, self.config = data, config
        self.state = init(method, data, config, key=key)
        self.seconds = 0.0
        self.compiling = self._timed(0)

    def advance(self, until: int) -> None:
        """Train up to a number of steps."""
        self.seconds += self._timed(until)

    def _timed(self, until: int) -> float:
        began = time.process_time()
        inputs = Inputs(self.data, self.config, jnp.asarray(until, jnp.int32))
        self.state = jax.block_until_ready(run(inputs, self.state))
        return time.process_time() - began


def race(config: Config, dataset: avb.Dataset, seed: int) -> dict[str, dict]:
    """All methods of one seed, taking turns from mark to mark."""
    fit_config = FitConfig(epochs=config.passes)
    data = DeviceData(dataset.train, "binarise", fit_config.batch_size)
    architecture = standardised(dataset.train, latent_dim=config.latent_dim, width=config.width)
    held_out = avb.binarise_once(dataset.validation[: config.num_data], seed=1)
    key_init, key_fit = jax.random.split(jax.random.key(seed))
    racers = {
        name: Racer(avb.PRESETS[name](architecture, key=key_init), data, fit_config, key_fit)
        for name in config.methods
    }
    curves: dict[str, list] = {name: [] for name in racers}
    total = config.passes * data.steps_per_epoch
    for until in sorted({max(1, round(total * mark)) for mark in MARKS}):
        for name, racer in racers.items():
            racer.advance(until)
            method = racer.state.averaged
            bound = avb.importance_bound(
                method.model,
                method.posterior,
                held_out,
                key=jax.random.key(7),
                samples=config.samples,
                batch_size=100,
            )
            curves[name].append([until, racer.seconds, bound.mean])
        print(seed, until, {name: round(c[-1][2], 2) for name, c in curves.items()}, flush=True)
    return {
        name: {
            "compiling": racer.compiling,
            "curve": curves[name],
        }
        for name, racer in racers.items()
    }


def time_to(curve: list, level: float) -> float | None:
    """Seconds at which a curve of (step, seconds, bound) first reaches a level."""
    before = None
    for _, seconds, bound in curve:
        if bound >= level:
            if before is None:
                return seconds
            share = (level - before[1]) / (bound - before[1])
            return before[0] + share * (seconds - before[0])
        before = (seconds, bound)
    return None


def best(curve: list) -> float:
    """The largest bound of a curve."""
    return max(bound for _, _, bound in curve)


def compile_seconds(results: dict[str, dict], name: str) -> float:
    """Of a method's first seed: the others find its program compiled."""
    return max(runs[name]["compiling"] for runs in results.values())


def ratio_cell(results: dict[str, dict], name: str, below: float, *, compiling: bool) -> str:
    """Times to a level over the Gaussian VAE's to the same, where a seed reaches it."""
    ratios = []
    for runs in results.values():
        level = best(runs[REFERENCE]["curve"]) - below
        base = time_to(runs[REFERENCE]["curve"], level)
        found = time_to(runs[name]["curve"], level)
        if found is not None and base is not None:
            add = [compile_seconds(results, which) * compiling for which in (name, REFERENCE)]
            ratios.append((found + add[0]) / (base + add[1]))
    if not ratios:
        return "never"
    words = spread(ratios)
    return words if len(ratios) == len(results) else f"{words}, {len(ratios)} of {len(results)}"


def table(results: dict[str, dict], methods: tuple[str, ...]) -> str:
    """One row a method."""
    header = ["method", "ms a step", "compiling, s", "best bound"]
    header += [f"to best − {below:g}" for below in LEVELS]
    header += ["to best − 0.5, compiling included"]
    rows = []
    for name in methods:
        runs = [seed[name] for seed in results.values()]
        row = [
            f"`{name}`",
            spread([1e3 * r["curve"][-1][1] / r["curve"][-1][0] for r in runs], 1),
            f"{compile_seconds(results, name):.0f}",
            spread([best(r["curve"]) for r in runs]),
        ]
        row += [ratio_cell(results, name, below, compiling=False) for below in LEVELS]
        rows.append([*row, ratio_cell(results, name, 0.5, compiling=True)])
    return markdown_table(header, rows)


def picture(results: dict[str, dict], methods: tuple[str, ...], path: Path) -> None:
    """The bound against seconds of training, a thin line a seed."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    tops = [best(runs[name]["curve"]) for runs in results.values() for name in methods]
    for number, name in enumerate(methods):
        for runs in results.values():
            _, seconds, bounds = np.asarray(runs[name]["curve"]).T
            label = name if runs is next(iter(results.values())) else None
            axis.plot(seconds, bounds, ".-", ms=3, lw=0.9, color=f"C{number}", label=label)
    axis.set(
        xscale="log",
        xlabel="processor seconds of training",
        ylabel="log p(x) ≥, validation, nats",
    )
    axis.set_ylim(max(tops) - 6.0, max(tops) + 0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def main(config: Config) -> None:
    """Run the seeds that have no result yet, then write table and picture."""
    dataset = avb.load_dataset(config.data, data_dir=config.data_dir)
    results = json.loads(config.path.read_text()) if config.path.exists() else {}
    for seed in config.seeds:
        if str(seed) not in results:
            results[str(seed)] = race(config, dataset, seed)
            write_json(config.path, results)
    picture(results, config.methods, config.path.with_suffix(".png"))
    reference = [best(runs[REFERENCE]["curve"]) for runs in results.values()]
    text = (
        f"# Time to a held-out bound: {config.data}\n\n`{config.command}`; processor "
        f"time of training over the Gaussian VAE's to the same level; d = {config.latent_dim}, "
        f"networks of {config.width} units, {config.passes} epochs; levels relative to each seed's "
        f"best Gaussian VAE ({spread(reference)} nats); mean and range over seeds.\n\n"
        + table(results, config.methods)
    )
    config.path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
