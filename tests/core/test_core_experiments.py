"""Every experiment can be started: a name that moves must not break a rarely run command."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from experiments.margins import Margin, margins

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_has_a_main(name):
    assert callable(importlib.import_module(f"experiments.{name}").main)


def test_annealing_of_some_images_corrects_the_margin_on_all():
    rng = np.random.default_rng(0)
    evidence = {name: rng.normal(size=400) for name in ("ahead", "behind")}
    slack = {"ahead": rng.exponential(0.1, size=400), "behind": rng.exponential(0.3, size=400)}
    ahead, behind = (
        {
            "importance": list(evidence[name] - slack[name]),
            "annealed": list(evidence[name][:200]),
        }
        for name in ("ahead", "behind")
    )
    found = margins(ahead, behind)
    truth = Margin.over(evidence["ahead"] - evidence["behind"])
    both = found["both, first 400"]
    assert found["annealing, first 200"].nats == pytest.approx(
        np.mean((evidence["ahead"] - evidence["behind"])[:200])
    )
    # The correction is known from half the images, far better than the margin itself.
    assert both.nats == pytest.approx(truth.nats, abs=0.1)
    assert both.error == pytest.approx(truth.error, rel=0.2)
    assert both.error < found["annealing, first 200"].error
