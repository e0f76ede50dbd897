"""The experiment's first claim, on a small budget: a trained critic finds log q − log r."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from avb.objectives import AbstractObjective, KLDual, Logistic

SCRIPT = Path(__file__).parents[2] / "experiments" / "closed_form.py"


@pytest.fixture(scope="module")
def closed_form() -> ModuleType:
    spec = importlib.util.spec_from_file_location("closed_form", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["closed_form"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("objective", [KLDual(), Logistic()], ids=["kl dual", "logistic"])
@pytest.mark.parametrize("dim", [2, 8])
def test_trained_critic_is_within_five_percent(
    closed_form: ModuleType, dim: int, objective: AbstractObjective
):
    budget = closed_form.Budget(steps=1000, batch=512)
    cell = closed_form.cell(dim, "adaptive", objective, 0, budget)
    assert abs(cell.divergence - 1.0) < 1e-3
    assert cell.value < 0.05
    assert cell.gradient < 0.05


@pytest.mark.parametrize("dim", [2, 8, 32])
def test_divergence_of_the_problem_is_the_one_asked_for(closed_form: ModuleType, dim: int):
    problem = closed_form.adaptive_problem(dim, 0.7)
    assert abs(closed_form.divergence_of(problem) - 0.7) < 1e-3


@pytest.mark.parametrize(("power", "expected"), [(1, 1.0), (2, 7.389), (4, float("inf"))])
def test_moments_of_the_ratio(closed_form: ModuleType, power: int, expected: float):
    assert closed_form.ratio_moment(8, 1.0, power) == pytest.approx(expected, rel=1e-3)
