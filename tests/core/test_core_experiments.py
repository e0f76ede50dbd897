"""Every experiment can be started: a name that moves must not break a rarely run command."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from experiments.margins import Margin, levels, margins, regressed

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


def test_regression_allows_for_annealed_images_that_are_easy_ones():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        weighted = np.sort(rng.normal(-80.0, 20.0, size=2000))[::-1]
        added = 0.5 - 0.04 * (weighted + 80.0) + rng.normal(0.0, 0.5, size=2000)
        # Every other one of the better half.
        order = np.r_[0:1000:2, 1:1000:2, 1000:2000]
        weighted, evidence = weighted[order], (weighted + added)[order]
        run = {"importance": list(weighted), "annealed": list(evidence[:500])}
        estimate = regressed(run, 500)
        found.append((estimate.nats - evidence.mean()) / estimate.error)
        assert estimate.error < 0.1
        assert levels(run)[0] < evidence.mean() - 0.5
    assert abs(np.mean(found)) < 0.6
    assert np.std(found) == pytest.approx(1.0, abs=0.4)
