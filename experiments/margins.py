"""By how much one preset beats another on MNIST, image by image, in log p(x).

The evaluation of a run anneals its first 100 test images, too few for a margin of a nat. This
command anneals as many as asked and weights all test images by importance, in chunks that are
kept, so it can be interrupted:

    python -m experiments.margins --data-dir ../shared/data/mnist --num-data 1000

Runs are those of ``experiments.mnist_presets``, of the same settings, and are trained first where
they do not exist. It prints, and writes beside their results, the mean difference over the
images with its standard error over images: by importance weighting, by annealing, and by both,
where the importance-weighted margin on all images is corrected by what annealing adds to it on
those that were annealed. With ``--split train`` on images that the runs were trained on, which
tells what better inference buys before any of it is lost on others; with ``--split validation`` on
those that settings may be chosen by.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import numpy as np
import tyro
from scipy.special import logsumexp

import avb
from avb.evaluation import annealed_bound, importance_bound
from experiments._averaged import averaged, replaced
from experiments._bounds import (
    CHUNKS,
    FIRST,
    SETTINGS,
    Bounds,
    Margin,
    added,
    levels,
    margins,
    regressed,
)
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._sharpness import FACTORS, fit_weights, with_sharpness
from experiments.mnist_presets import Config as Presets, train

GAIN = "prior"
WEIGHTS = "weights of sharpness"
# Validation images that the weights are fitted to, the last ones.
FITTED_TO = 1000


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Settings of the comparison.

    Attributes:
        num_data: Images to anneal.
        importance_data: Images to weight by importance.
        split: Images of which part of the data.
        fitted_prior: Whether a flow that is fitted first takes the place of the prior.
        fresh_decoders: Decoders of ``experiments.decoders`` that the run's own is averaged with.
        decoder: Which of these takes the place of the run's own, counted from 1; 0 for none.
        mixed_sharpness: Whether an image's logits are multiplied by one of several factors, whose
            weights are fitted first, to validation images.
        methods: The baseline, and the presets that may beat it; of one alone log p(x) is told.
        temperatures: Temperatures of the annealing.
        weighted_samples: Samples of the importance-weighted bound.
    """

    importance_data: int = 10_000
    split: Literal["test", "validation", "train"] = "test"
    fitted_prior: bool = False
    fresh_decoders: int = 0
    decoder: int = 0
    mixed_sharpness: bool = False
    methods: tuple[str, ...] = ("gaussian_vae", "avb_adaptive")
    temperatures: int = 500
    weighted_samples: int = 500

    def __post_init__(self):
        super().__post_init__()
        if not FIRST <= self.num_data <= self.importance_data:
            raise ValueError(
                f"num_data: expected {FIRST} to importance_data = {self.importance_data}, "
                f"got {self.num_data}"
            )
        if self.mixed_sharpness and self.split == "validation":
            raise ValueError(
                "mixed_sharpness: expected --split test or train, got validation, whose images the "
                "weights are fitted to"
            )
        if self.decoder and self.fresh_decoders:
            raise ValueError(
                f"expected either decoder or fresh_decoders, got {self.decoder} and "
                f"{self.fresh_decoders}"
            )
        if not self.methods:
            raise ValueError(
                "methods: expected a baseline, and others to compare with it, got none"
            )

    @property
    def counts(self) -> dict[str, int]:
        return {"importance": self.importance_data, "annealed": self.num_data}

    @property
    def settings(self) -> list[float]:
        return [self.weighted_samples, self.temperatures]

    @property
    def what(self) -> str:
        """Of which images and which model, as part of a file's name."""
        images = "" if self.split == "test" else f"-{self.split}"
        prior = "-prior" if self.fitted_prior else ""
        mean = f"-decoders{self.fresh_decoders}" if self.fresh_decoders else ""
        other = f"-decoder{self.decoder}" if self.decoder else ""
        return images + prior + mean + other + ("-sharpness" if self.mixed_sharpness else "")

    def path(self, method: str, seed: int) -> Path:
        name = f"margins{self.what}-{self.run_name(method, seed)}.json"
        return RESULTS / self.name / name

    @property
    def table_path(self) -> Path:
        return RESULTS / self.name / f"margins{self.what}{self.variation}.md"


def estimators(config: Config, method: avb.Method) -> dict[str, Callable]:
    """Each bound of a batch of data, by name."""
    model, posterior = method.model, method.posterior
    samples, temperatures = config.weighted_samples, config.temperatures
    return {
        "importance": lambda data, key: importance_bound(
            model, posterior, data, key=key, samples=samples
        ),
        "annealed": lambda data, key: annealed_bound(
            model, posterior, data, key=key, temperatures=temperatures
        ),
    }


def bounds_of(config: Config, method: str, seed: int) -> Bounds:
    """Both bounds of each image; goes on after the last chunk that was kept."""
    path = config.path(method, seed)
    kept: Bounds = {SETTINGS: config.settings} | {name: [] for name in CHUNKS}
    if path.exists():
        kept = json.loads(path.read_text())
        expect_settings(kept, config.settings, path)
    missing = [name for name, count in config.counts.items() if len(kept[name]) < count]
    if config.tabulate_only or not missing:
        return kept
    run_dir = config.runs_dir / config.name / config.run_name(method, seed)
    train(config, method, seed, run_dir)
    run = avb.load_run(run_dir)
    bounds = estimators(config, evaluated_method(config, run, kept))
    for index, name in enumerate(CHUNKS):
        data = run.held_out(config.split)[: config.counts[name]]
        while (done := len(kept[name])) < len(data):
            began = time.perf_counter()
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), index), done)
            bound = bounds[name](data[done : done + CHUNKS[name]], key)
            kept[name] += [round(float(value), 4) for value in bound.values]
            write_json(path, kept)
            seconds = time.perf_counter() - began
            text = f"{method} seed {seed}, {bound.estimator}: {len(kept[name])} images"
            print(f"{text}, {seconds:.0f} s a chunk", flush=True)
    return kept


def evaluated_method(config: Config, run: avb.Run, kept: Bounds) -> avb.Method:
    """That of the run, its decoder averaged or another, its prior or likelihood fitted where asked.

    What was fitted is kept.
    """
    method = run.method
    if config.fresh_decoders:
        model = averaged(run.path, method, config.fresh_decoders)
        method = eqx.tree_at(lambda method: method.model, method, model)
    if config.decoder:
        model = replaced(run.path, method, config.decoder)
        method = eqx.tree_at(lambda method: method.model, method, model)
    if config.fitted_prior:
        fitted = avb.fit_prior(method, run.dataset().train, key=jax.random.key(1))
        method, kept[GAIN] = fitted.method, [fitted.gain, fitted.standard_error]
        print(f"prior: gain of {fitted.gain:.3f} nats", flush=True)
    if config.mixed_sharpness:
        if WEIGHTS not in kept:
            images = run.held_out("validation")[-FITTED_TO:]
            kept[WEIGHTS] = sharpness_weights(config, method, images)
        model = with_sharpness(method.model, tuple(kept[WEIGHTS]))
        method = eqx.tree_at(lambda method: method.model, method, model)
    return method


def sharpness_weights(config: Config, method: avb.Method, data: np.ndarray) -> list[float]:
    """Those under which images are likeliest, by importance weighting."""
    evidence = np.empty((len(data), len(FACTORS)))
    for index, factor in enumerate(FACTORS):
        model = with_sharpness(method.model, (1.0,), (factor,))
        bound = importance_bound(
            model, method.posterior, data, key=jax.random.key(2), samples=config.weighted_samples
        )
        evidence[:, index] = bound.values
    weights = fit_weights(evidence)
    gain = Margin.over(logsumexp(evidence, axis=1, b=weights) - evidence[:, 0])
    told = ", ".join(f"{w:.3f} × {factor:g}" for w, factor in zip(weights, FACTORS, strict=True))
    gained = f"gain of {gain.nats:.2f} ± {gain.error:.2f} nats on the images fitted to"
    print(f"sharpness {told}: {gained}", flush=True)
    return list(weights)


def expect_settings(kept: Bounds, settings: list[float], path: Path) -> None:
    """Refuse to go on with bounds of other settings, or to take them for these."""
    if kept.get(SETTINGS, settings) != settings:
        known, asked = (
            "--weighted-samples {} --temperatures {}".format(*each)
            for each in (kept[SETTINGS], settings)
        )
        raise SystemExit(
            f"{path} was made with {known}, got {asked}: give the former, or move it away"
        )


HEADER = ["margin over the baseline", "seeds", "nats per datum", "standard error over images"]


def table(config: Config, found: dict[tuple[str, int], Bounds]) -> str:
    baseline, *others = config.methods
    texts = []
    for method in others:
        seeds = [s for s in config.seeds if {(method, s), (baseline, s)} <= found.keys()]
        if not seeds:
            continue
        pairs = [(found[method, s], found[baseline, s]) for s in seeds]
        compared = [margins(*pair) for pair in pairs]
        rows = [
            [
                title,
                str(len(seeds)),
                spread(of_seed[title].nats for of_seed in compared),
                spread(of_seed[title].error for of_seed in compared),
            ]
            for title in compared[0]
        ]
        means = [spread(of_run) for of_run in zip(*(levels(*pair) for pair in pairs), strict=True)]
        texts.append(
            f"`{method}` over `{baseline}`, {config.split} images; log p(x) by both, all images: "
            f"{means[0]} and {means[1]}.\n\n{markdown_table(HEADER, rows)}"
        )
    return "\n".join(texts)


def level_table(config: Config, found: dict[tuple[str, int], Bounds]) -> str:
    """Log p(x) of one method that is compared with none."""
    runs = list(found.values())
    if not runs:
        return ""
    rows = []
    for name, title in (("annealed", "annealing"), ("importance", "importance weighting")):
        available = min(len(run[name]) for run in runs)
        for count in sorted({FIRST, config.num_data, config.importance_data}):
            if count <= available:
                of_each = [Margin.over(np.asarray(run[name][:count])) for run in runs]
                rows += _with_error(f"{title}, first {count}", of_each)
    count = min(len(run["annealed"]) for run in runs)
    of_each = [Margin.over(added(run, count)) for run in runs]
    rows += _with_error(f"annealing less weighting, first {count}", of_each)
    if config.fitted_prior:
        gains = [Margin(*run[GAIN]) for run in runs]
        quantity = "log p(x)" if config.hmc_transitions else "ELBO"
        title = f"{quantity} gained by the prior, training images not fitted to"
        rows += _with_error(title, gains)
    both = f"both, first {min(len(run['importance']) for run in runs)}"
    rows.append([both, str(len(runs)), spread(levels(*runs))])
    rows += _with_error(f"{both}, by regression", [regressed(run, count) for run in runs])
    return markdown_table([f"log p(x) ≥, {config.split} images", "seeds", "nats per datum"], rows)


def _with_error(title: str, found: list[Margin]) -> list[list[str]]:
    """A row of the means of each run, and one of their standard errors over images."""
    return [
        [title, str(len(found)), spread(mean.nats for mean in found)],
        [f"{title}, error", str(len(found)), spread(mean.error for mean in found)],
    ]


def main(config: Config) -> None:
    found = {}
    for seed in config.seeds:
        for method in config.methods:
            bounds = bounds_of(config, method, seed)
            if all(bounds.values()):
                found[method, seed] = bounds
    text = (table if len(config.methods) > 1 else level_table)(config, found)
    config.table_path.parent.mkdir(parents=True, exist_ok=True)
    config.table_path.write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
