"""By how much one trained run beats another in log p(x), from the bounds that ``margins`` kept.

    python -m experiments.paired_bounds BEFORE.json AFTER.json [AFTER.json …]

All files are of ``experiments.margins``, of the same split and with as many samples and
temperatures, which older ones don't tell; each of the others is compared with the first on the
images that both have. Nothing is evaluated. ``margins`` itself compares methods of the same
settings; this one stages of one run, and settings. Besides it tells what they are as one model,
which draws from each with the same probability: how much of log p(x) one run leaves to chance.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from experiments._bounds import SETTINGS, Bounds, levels, margins, mixture, regressed
from experiments._results import markdown_table


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs.

    Attributes:
        before: The bounds of the run to compare with.
        after: Those of one or more others.
    """

    before: Annotated[Path, tyro.conf.Positional]
    after: Annotated[tuple[Path, ...], tyro.conf.Positional]

    def __post_init__(self):
        if not self.after:
            raise ValueError("after: expected the bounds of at least one other run, got none")
        before = split_of(self.before)
        for path in self.after:
            if split_of(path) != before:
                raise ValueError(
                    f"expected bounds of the same images, got {before} ({self.before.name}) and "
                    f"{split_of(path)} ({path.name}): run experiments.margins with --split {before}"
                )


def split_of(path: Path) -> str:
    """Which images a file that ``margins`` wrote is of."""
    first = path.name.removeprefix("margins-").split("-")[0]
    return first if first in ("train", "validation") else "test"


def expect_same_settings(before: Bounds, after: Bounds) -> None:
    """Refuse to compare bounds of which it is known that they are of different settings."""
    known = [bounds[SETTINGS] for bounds in (before, after) if SETTINGS in bounds]
    if len(known) == 2 and known[0] != known[1]:
        raise SystemExit(
            f"expected bounds of the same numbers of {SETTINGS}, got {known[0]} and {known[1]}: "
            "run experiments.margins with --weighted-samples and --temperatures alike"
        )


def table(before: Bounds, after: Bounds) -> str:
    rows = [
        [title, f"{margin.nats:+.2f}", f"{margin.error:.2f}"]
        for title, margin in margins(after, before).items()
    ]
    return markdown_table(["gain, images that both have", "nats per datum", "error"], rows)


def mixture_table(*runs: Bounds) -> str:
    """Log p(x) of the mixture, as ``margins`` tells that of one run."""
    mixed = mixture(*runs)
    count = len(mixed["annealed"])
    regression = regressed(mixed, count)
    both = f"both, first {len(mixed['importance'])}"
    rows = [
        [f"annealing, first {count}", f"{np.mean(mixed['annealed']):.2f}"],
        [both, f"{levels(mixed)[0]:.2f}"],
        [f"{both}, by regression", f"{regression.nats:.2f} ± {regression.error:.2f}"],
    ]
    title = f"log p(x) ≥, one model of {len(runs)} in equal shares"
    return markdown_table([title, "nats per datum"], rows)


def main(config: Config) -> None:
    before, *others = (json.loads(path.read_text()) for path in (config.before, *config.after))
    for path, after in zip(config.after, others, strict=True):
        expect_same_settings(before, after)
        print(f"{path.name}\n\n{table(before, after)}")
    print(mixture_table(before, *others))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
