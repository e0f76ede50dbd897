"""The upper bound by the critic of training, on a posterior whose ELBO is known exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb
from avb import ConfigError
from avb.contrasts import PriorContrast
from avb.evaluation import TrainedOn, critic_upper_bound, trained_on
from avb.evaluation._own_bound import sharpest
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


def further(fresh, **settings) -> TrainedOn:
    return trained_on(method_with(**settings), X, fresh, key=KEY, steps=1000, draws=512)


def test_training_on_finds_what_the_critic_of_training_missed(fresh):
    found, missed = further(fresh, factor=0.3), bound(fresh, factor=0.3)
    upper = found.bound.upper
    assert missed.mean > upper.mean + 0.1
    assert abs(upper.mean - exact_elbo().mean()) < 3 * upper.standard_error + 0.02
    assert abs(found.estimate.mean - exact_elbo().mean()) < 3 * found.estimate.standard_error + 0.02
    assert found.estimate.estimator == "critic of training, trained on"
    assert upper.estimator == "dual bound by the critic of training, trained on"
    assert "1000 further steps of its critic" in upper.detail


def test_the_density_of_the_bound_is_what_it_takes_for_q(fresh):
    found = further(fresh).bound
    posterior, index = curved(), jnp.asarray(3)
    x = jnp.asarray(X[3], jnp.float32)
    z = posterior.sample(KEY, x, (200,))
    exact = jax.vmap(lambda z: posterior.log_q(x, z))(z)
    off = np.asarray(found.density.log_prob(x, index, KEY, z) - exact)
    # All but the error of the normaliser, from some hundred draws, which the excess makes good.
    assert np.std(off) < 0.02
    assert abs(np.mean(off)) < 0.15
    assert abs(np.mean(off) - found.excess[0][3]) < 3 * found.excess[1][3] + 0.02


def test_who_knows_most_is_told(fresh):
    own = further(fresh)
    assert fresh.upper.mean > own.bound.upper.mean + 0.1
    assert sharpest(fresh, own) == (own.estimate, own.bound.upper)
    close = dataclasses.replace(own.bound.upper, values=fresh.upper.values - 1e-3)
    own = dataclasses.replace(own, bound=dataclasses.replace(own.bound, upper=close))
    assert sharpest(fresh, own) == (fresh.estimate, fresh.upper)


def test_fresh_critics_of_other_data_are_refused(fresh):
    for bound_of in (critic_upper_bound, trained_on):
        with pytest.raises(ConfigError) as raised:
            bound_of(method_with(), X[:3], fresh, key=KEY)
        assert str(raised.value) == (
            "fresh critics: expected those of the same 3 data, got those of 16"
        )


def test_training_on_takes_a_step_at_least(fresh):
    message = "^further steps of the critic: expected at least 1, got 0$"
    with pytest.raises(ConfigError, match=message):
        trained_on(method_with(), X, fresh, key=KEY, steps=0)


def test_a_critic_over_the_prior_bounds_the_elbo_too(fresh):
    method = dataclasses.replace(method_with(factor=0.0), contrast=PriorContrast())
    found = critic_upper_bound(method, X, fresh, key=KEY, draws=512)
    assert found.mean > exact_elbo().mean() - 3 * found.standard_error
