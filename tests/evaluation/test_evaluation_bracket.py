"""The bracket of a semi-implicit posterior whose ELBO is known, and how it chooses K."""

import re

import jax
import numpy as np
import pytest

import avb
from avb import ConfigError
from core.test_core_helpers import GAUSSIANS, data, known_mixture, known_mixture_loc

X = data()
POSTERIOR, COVARIANCE = known_mixture()
EXACT = GAUSSIANS.elbo(X, known_mixture_loc(X), COVARIANCE)


def bracket(rows: np.ndarray = X, **settings) -> tuple[avb.Estimate, avb.Estimate]:
    settings = {"key": jax.random.key(1), "draws": 800} | settings
    return avb.elbo_bracket(GAUSSIANS.model(), POSTERIOR, rows, **settings)


def chosen(estimate: avb.Estimate) -> int:
    found = re.search(r"K = (\d+)", estimate.detail)
    assert found is not None
    return int(found[1])


@pytest.fixture(scope="module")
def automatic() -> dict[float, tuple[avb.Estimate, avb.Estimate]]:
    return {width: bracket(width=width) for width in (0.2, 0.02)}


def test_automatic_bracket_contains_the_exact_elbo(automatic):
    for lower, upper in automatic.values():
        assert lower.mean - 3 * lower.standard_error < EXACT.mean()
        assert EXACT.mean() < upper.mean + 3 * upper.standard_error


def test_automatic_k_grows_until_the_width_is_reached(automatic):
    for width, (lower, upper) in automatic.items():
        assert upper.mean - lower.mean < width
        assert lower.detail == upper.detail
        told = re.search(r"\(automatic\), width ([\d.]+): ([\d.]+) reached$", lower.detail)
        assert told is not None
        np.testing.assert_allclose(float(told[1]), upper.mean - lower.mean, rtol=5e-3)
        assert float(told[2]) == width
    assert chosen(automatic[0.2][0]) < chosen(automatic[0.02][0])


def test_choice_of_k_leaves_the_draws_alone(automatic):
    lower, upper = automatic[0.02]
    fixed = bracket(components=chosen(lower))
    np.testing.assert_array_equal(fixed[0].values, lower.values)
    np.testing.assert_array_equal(fixed[1].values, upper.values)
    assert fixed[0].detail == f"800 draws a datum, K = {chosen(lower)}"


def test_k_stops_at_the_budget_and_says_so():
    lower, _ = bracket(width=1e-6, max_components=100)
    assert chosen(lower) == 100
    assert lower.detail.endswith(": 1e-06 not reached")


def test_bracket_does_not_depend_on_the_batch_size(automatic):
    np.testing.assert_allclose(
        bracket(width=0.2, batch_size=4)[0].values, automatic[0.2][0].values, rtol=1e-4
    )


def test_pilot_on_a_part_of_many_data():
    rows = data(300)
    lower, upper = bracket(rows, width=0.1, draws=8)
    assert len(lower.values) == 300
    assert upper.mean - lower.mean < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0.0}, "width of the bracket: expected a positive number, got 0.0"),
        ({"max_components": 0}, "max_components: expected at least 1, got 0"),
        ({"components": -3}, "components of the bracket: expected at least 1, got -3"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError) as raised:
        bracket(**settings)
    assert str(raised.value) == message
