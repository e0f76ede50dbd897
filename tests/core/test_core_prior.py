"""A prior fitted to the aggregate posterior, against the Gaussian that it is in a linear model."""

import dataclasses
import re

import equinox as eqx
import jax
import numpy as np
import pytest
import test_core_helpers
from test_core_helpers import (
    DATA_DIM,
    GAUSSIANS,
    LATENT_DIM,
    NOISE,
    aggregate,
    assert_same_bits,
    divergence_from_prior,
    exact_posterior,
)

import avb
from avb import ConfigError, DataError, FitConfig, Method
from avb.models import FlowPrior
from avb.training import _prior

COUNT = 4000


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_prior, "STEPS", 400)
        yield


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """Not the model's own: its latent vectors are off their prior's mean, and wider."""
    return test_core_helpers.data(COUNT, mean=1.0, scale=1.6)


@pytest.fixture(scope="module")
def method() -> Method:
    return Method(GAUSSIANS.model(), exact_posterior())


@pytest.fixture(scope="module")
def fitted(method, data):
    return avb.fit_prior(method, data, key=jax.random.key(1))


def test_the_gain_is_how_far_the_aggregate_posterior_is_from_the_prior(fitted, data):
    divergence = divergence_from_prior(*aggregate(data))
    assert divergence > 0.8
    assert 0 < fitted.standard_error < 0.1
    assert fitted.gain == pytest.approx(divergence, abs=3 * fitted.standard_error + 0.03)


def test_log_evidence_is_that_of_a_model_with_the_aggregate_posterior_as_prior(fitted, data, key):
    mean, covariance = aggregate(data)
    x = data[:300]
    spread = GAUSSIANS.weight @ covariance @ GAUSSIANS.weight.T + NOISE**2 * np.eye(DATA_DIM)
    centred = x - (GAUSSIANS.weight @ mean + GAUSSIANS.bias)
    squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(spread), centred)
    truth = -0.5 * (squared + np.linalg.slogdet(2 * np.pi * spread)[1])
    model, posterior = fitted.method.model, fitted.method.posterior
    found = avb.importance_bound(model, posterior, x, key=key, samples=200)
    assert found.mean == pytest.approx(truth.mean(), abs=0.04)
    annealed = avb.annealed_bound(model, posterior, x[:20], key=key, temperatures=50)
    assert annealed.mean == pytest.approx(truth[:20].mean(), abs=0.06)


def test_draws_are_those_of_the_aggregate_posterior(fitted, data, key):
    z, x = jax.vmap(fitted.method.model.sample)(jax.random.split(key, 5000))
    mean, covariance = aggregate(data)
    np.testing.assert_allclose(np.mean(z, 0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(np.asarray(z).T), covariance, atol=0.2)
    expected = GAUSSIANS.weight @ mean + GAUSSIANS.bias
    np.testing.assert_allclose(np.mean(x, 0), expected, atol=0.1)


def test_nothing_but_the_prior_changes(method, fitted):
    assert isinstance(fitted.method.model.prior, FlowPrior)
    back = eqx.tree_at(lambda m: m.model.prior, fitted.method, method.model.prior)
    assert_same_bits(back, method)


def test_training_goes_on_and_leaves_the_prior_as_it_is(fitted, data, key):
    result = avb.fit(fitted.method, data[:256], config=FitConfig(epochs=1), key=key)
    assert_same_bits(result.method.model.prior, fitted.method.model.prior)
    assert not eqx.tree_equal(result.method.posterior, fitted.method.posterior)


def test_pixels_are_binarised_and_the_same_key_gives_the_same_bits(key, monkeypatch):
    monkeypatch.setattr(_prior, "STEPS", 20)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)
    architecture = avb.Architecture((4, 4), latent_dim=2, width=8)
    method = avb.avb_adaptive(architecture, key=key)
    told = []
    one, other = (
        avb.fit_prior(method, pixels, key=key, progress=lambda *now: told.append(now))
        for _ in range(2)
    )
    assert told == 2 * [(320, 320)]
    assert np.isfinite(one.gain)
    assert one.gain == other.gain
    assert_same_bits(arrays(one), arrays(other))


def arrays(tree) -> list:
    # The structures of two flows differ: FlowJAX builds each from functions of its own.
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def refuses(error: type, message: str, method: Method, data: np.ndarray):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        avb.fit_prior(method, data, key=jax.random.key(0))


def test_a_critic_over_the_prior_is_refused(key):
    method = avb.avb(avb.Architecture((3,), latent_dim=2, likelihood="normal"), key=key)
    message = (
        "fit_prior: expected a contrast that does not depend on the prior, got PriorContrast, "
        "whose critic would be wrong for another prior; use avb_adaptive"
    )
    refuses(ConfigError, message, method, np.zeros((20, 3), np.float32))


def test_a_flow_beside_a_critic_over_the_prior_is_refused(fitted, key):
    method = avb.avb(avb.Architecture((DATA_DIM,), latent_dim=LATENT_DIM), key=key)
    message = (
        "PriorContrast: expected a prior with a mean and a variance, by which the critic's input "
        "is whitened, got FlowPrior; use AnchoredMomentContrast"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(method, model=fitted.method.model)


def test_one_dimension_is_refused(key):
    architecture = avb.Architecture((3,), latent_dim=1, likelihood="normal")
    message = "a coupling flow as prior: expected at least 2 latent dimensions, got 1"
    method = avb.gaussian_vae(architecture, key=key)
    refuses(ConfigError, message, method, np.zeros((20, 3), np.float32))


def test_bad_data_are_refused(method):
    message = "fit_prior: expected at least 20 data, got 19"
    refuses(DataError, message, method, np.zeros((19, DATA_DIM), np.float32))
    message = f"data to evaluate: expected shape (n, ({DATA_DIM},)), got (1, 2)"
    refuses(DataError, message, method, np.zeros((30, 2), np.float32))
    bad = np.zeros((30, DATA_DIM), np.float32)
    bad[7, 1] = np.nan
    message = "training data: expected finite numbers, got NaN or infinity"
    refuses(DataError, message, method, bad)
