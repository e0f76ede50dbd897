"""How likely distorted copies of MNIST's images are under a model that was trained.

    python -m experiments.copies --run-dir RUN

``experiments.mnist_presets --copies`` trains on such copies. They look like new images where copies
of validation images are as likely as these. Under a run that was trained on copies, others of the
same training images tell what it learnt by heart: the copies, or the digits. It prints, and keeps,
log p(x) by importance weighting for copies of several strengths, and the difference from the images
themselves; no test image is looked at.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro

import avb
from avb.evaluation import importance_bound
from experiments._bounds import Margin
from experiments._distorted import distorted
from experiments._results import RESULTS, keep, markdown_table

SEEDS = {"train": 1, "validation": 2}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run, and which copies.

    Attributes:
        run_dir: Run folder of a model of MNIST.
        strengths: Of the distortion, as multiples of what ``mnist_presets`` trains on.
        num_data: Images of each split.
        samples: Samples of the bound.
    """

    run_dir: Path
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    num_data: int = 1000
    samples: int = 100

    @property
    def path(self) -> Path:
        return RESULTS / self.run_dir.absolute().parent.name / f"copies-{self.run_dir.name}.json"


def bounds_of(config: Config) -> dict[str, list[float]]:
    """The bound of each image, and of one copy of it at each strength."""
    run = avb.load_run(config.run_dir)
    # Its own split; the training images of a run on copies come before these.
    dataset = run.dataset()
    found = {}
    for split, seed in SEEDS.items():
        images = getattr(dataset, split)[: config.num_data]
        for strength in (0.0, *config.strengths):
            copies = distorted(images, np.random.default_rng(seed), strength)
            bound = importance_bound(
                run.method.model,
                run.method.posterior,
                run.values_of(copies, label=f"copies of the {split} split"),
                key=jax.random.key(0),
                samples=config.samples,
            )
            found[f"{split}, {strength:g}"] = [round(float(value), 4) for value in bound.values]
            print(f"{split}, strength {strength:g}: {np.mean(bound.values):.2f}", flush=True)
    return found


def table(found: dict[str, list[float]]) -> str:
    rows = []
    for name, values in found.items():
        split, strength = name.split(", ")
        change = Margin.over(np.subtract(values, found[f"{split}, 0"]))
        told = "–" if strength == "0" else f"{change.nats:+.2f} ± {change.error:.2f}"
        rows.append([split, strength, f"{np.mean(values):.2f}", told])
    return markdown_table(["images", "distortion", "log p(x) ≥", "from the images"], rows)


def main(config: Config) -> None:
    found = bounds_of(config)
    keep(config.path, found, table(found))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
