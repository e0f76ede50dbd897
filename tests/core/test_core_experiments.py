"""Every experiment can be started: a name that moves must not break a rarely run command."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_has_a_main(name):
    assert callable(importlib.import_module(f"experiments.{name}").main)
