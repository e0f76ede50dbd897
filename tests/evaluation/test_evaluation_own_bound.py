"""The upper bound by the critic of training, on a posterior whose ELBO is known exactly."""

import dataclasses

import jax
import numpy as np
import pytest

import avb
from avb import ConfigError
from avb.contrasts import PriorContrast
from avb.evaluation import critic_upper_bound
from avb.evaluation._own_bound import lowest
from evaluation.test_evaluation_curved import X, curved, exact_elbo, method_with

KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def fresh() -> avb.FreshCritics:
    """Critics that have learnt next to nothing."""
    model = method_with().model
    settings = {"critics": 2, "steps": 10, "draws": 256}
    return avb.fresh_critic_elbo(model, curved(), X, key=jax.random.key(5), **settings)


def bound(fresh, **settings) -> avb.Estimate:
    return critic_upper_bound(method_with(**settings), X, fresh, key=KEY, draws=512)


def test_a_right_critic_gives_the_elbo(fresh):
    found = bound(fresh)
    assert abs(found.mean - exact_elbo().mean()) < 3 * found.standard_error
    assert (found.quantity, found.kind) == ("ELBO", "upper bound")
    assert found.estimator == "dual bound by the critic of training"
    assert avb.critic_elbo(method_with(), X, key=KEY).estimator != found.estimator
    np.testing.assert_array_equal(found.values, bound(fresh).values)


@pytest.mark.parametrize(
    "settings",
    [{"factor": 0.0}, {"factor": 0.5}, {"factor": 2.0}, {"shift": 0.4}, {"shift": -0.4}],
    ids=["untrained", "over-regularised", "saturated", "too high", "too low"],
)
def test_whatever_the_critic_says_the_bound_holds(settings, fresh):
    found = bound(fresh, **settings)
    assert found.mean > exact_elbo().mean() - 3 * found.standard_error


def test_the_lower_bound_of_the_two_is_told_and_an_estimate_above_it_is_wrong(fresh):
    own = bound(fresh)
    assert fresh.upper.mean > own.mean + 0.1
    estimate, upper = lowest(fresh, own)
    assert upper is own
    assert estimate.flag is not None
    assert estimate.flag.endswith("nats above the upper bound by the critic of training")
    estimate, upper = lowest(fresh, dataclasses.replace(own, values=fresh.upper.values - 1e-3))
    assert (estimate, upper) == (fresh.estimate, fresh.upper)


def test_a_bound_below_theirs_does_not_contradict_an_estimate_below_it(fresh):
    low = dataclasses.replace(fresh.estimate, values=bound(fresh).values - 1.0)
    estimate, upper = lowest(dataclasses.replace(fresh, estimate=low), bound(fresh))
    assert estimate.flag is None
    assert upper.estimator == "dual bound by the critic of training"


def test_fresh_critics_of_other_data_are_refused(fresh):
    with pytest.raises(ConfigError) as raised:
        critic_upper_bound(method_with(), X[:3], fresh, key=KEY)
    assert str(raised.value) == (
        "fresh critics: expected those of the same 3 data, got those of 16"
    )


def test_a_critic_over_the_prior_bounds_the_elbo_too(fresh):
    method = dataclasses.replace(method_with(factor=0.0), contrast=PriorContrast())
    found = critic_upper_bound(method, X, fresh, key=KEY, draws=512)
    assert found.mean > exact_elbo().mean() - 3 * found.standard_error
