"""Simulation-based calibration on a conjugate model, and its tests of uniformity."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import avb
from avb import ConfigError, DataError, Method
from avb.diagnostics import (
    method_calibration,
    simulation_based_calibration,
    uniformity_test,
)
from avb.posteriors import GaussianPosterior
from core.test_core_helpers import DATA_DIM, GAUSSIANS, LATENT_DIM, exact_posterior
from seed import SEED

DIM = 3
SIMULATIONS = 400


def simulate(key):
    """Z from N(0, I), x from N(z, I)."""
    key_z, key_x = jax.random.split(key)
    z = jax.random.normal(key_z, (DIM,))
    return z, z + jax.random.normal(key_x, (DIM,))


def posterior(shift: float = 0.0, scale: float = 1.0):
    """The exact posterior N(x / 2, I / 2), with its first coordinate spoiled."""

    def sample(key, x, draws: int):
        first = jnp.eye(DIM)[0]
        sd = np.sqrt(0.5) * (1 + (scale - 1) * first)
        return (x / 2 + shift * first)[None] + jax.random.normal(key, (draws, DIM)) * sd[None]

    return sample


def prior(key, x, draws: int):
    return jax.random.normal(key, (draws, DIM))


def log_joint(z, x):
    return (-0.5 * jnp.sum(z**2) - 0.5 * jnp.sum((x - z) ** 2))[None]


def calibrate(sample, **settings):
    settings = {"key": jax.random.key(SEED), "simulations": SIMULATIONS, **settings}
    return simulation_based_calibration(simulate, sample, **settings)


def test_the_exact_posterior_is_calibrated():
    told = []
    result = calibrate(
        posterior(), quantities=log_joint, progress=lambda done, total: told.append((done, total))
    )
    assert result.ranks.shape == (SIMULATIONS, DIM + 1)
    assert (result.ranks.min(), result.ranks.max()) == (0, result.draws)
    # One of four in 1,000 seeds would fall below.
    assert np.all(result.uniformity.adjusted_p_values > 1e-3)
    assert np.all(result.uniformity.chi_square_p_values > 1e-4)
    assert told == [(100, 400), (200, 400), (300, 400), (400, 400)]


@pytest.mark.parametrize("wrong", [{"shift": 0.3}, {"scale": 0.7}, {"scale": 1.5}])
def test_a_wrong_posterior_is_rejected_in_the_coordinate_that_is_wrong(wrong):
    result = calibrate(posterior(**wrong), quantities=log_joint)
    assert not result.calibrated
    assert result.uniformity.adjusted_p_values[0] < 0.01
    assert np.all(result.uniformity.ecdf_p_values[1:DIM] > 1e-4)


def test_the_prior_passes_but_for_the_log_joint():
    """The known blind spot of ranks of coordinates, and its mend."""
    result = calibrate(prior, quantities=log_joint)
    assert np.all(result.uniformity.ecdf_p_values[:DIM] > 1e-4)
    assert result.uniformity.adjusted_p_values[DIM] < 0.01
    assert not result.calibrated


def test_ranks_do_not_depend_on_the_batch_size_or_on_compiling():
    first = calibrate(posterior(), simulations=30, batch_size=7)
    second = calibrate(posterior(), simulations=30)
    third = calibrate(posterior(), simulations=30, compiled=False)
    np.testing.assert_array_equal(first.ranks, second.ranks)
    np.testing.assert_array_equal(first.ranks, third.ranks)
    assert first.as_dict() == second.as_dict()


def test_samplers_outside_jax():
    def sample(key, x, draws: int):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return np.asarray(x) / 2 + rng.normal(size=(draws, DIM)) * np.sqrt(0.5)

    told = []
    result = calibrate(
        sample,
        simulations=60,
        compiled=False,
        progress=lambda done, total: told.append((done, total)),
    )
    assert np.all(result.uniformity.ecdf_p_values > 1e-4)
    assert told[:2] == [(1, 60), (2, 60)]
    with pytest.raises(ConfigError) as error:
        calibrate(sample)
    assert str(error.value) == (
        "simulate and sample_posterior: expected functions that JAX can compile; for others pass "
        "compiled=False"
    )


def test_ties_are_broken_at_random():
    """Draws that all equal the true value can stand anywhere."""

    def nothing(key):
        return jnp.zeros(1), jnp.zeros(1)

    result = simulation_based_calibration(
        nothing,
        lambda key, x, draws: jnp.zeros((draws, 1)),
        key=jax.random.key(SEED),
        simulations=SIMULATIONS,
        draws=9,
    )
    assert np.all(result.uniformity.ecdf_p_values > 1e-4)


def test_result_is_ready_for_json():
    result = calibrate(posterior(), simulations=20, names=["a", "b", "c"]).as_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["names"] == ["a", "b", "c"]
    assert result["simulations"] == len(result["ranks"]) == 20


# --- Methods ---


def test_a_method_with_the_exact_posterior_is_calibrated():
    method = Method(GAUSSIANS.model(), exact_posterior())
    result = method_calibration(method, key=jax.random.key(SEED), simulations=SIMULATIONS)
    assert result.names == (*(f"z[{i}]" for i in range(LATENT_DIM)), "log p(x, z)")
    assert np.all(result.uniformity.adjusted_p_values > 1e-3)


def test_an_untrained_method_is_not_calibrated():
    untrained = GaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, key=jax.random.key(4)
    )
    method = Method(GAUSSIANS.model(), untrained)
    result = method_calibration(method, key=jax.random.key(SEED), simulations=SIMULATIONS)
    assert not result.calibrated


def test_a_method_that_can_only_be_sampled():
    architecture = avb.Architecture((4,), 2, likelihood="normal", width=8, depth=1)
    method = avb.avb(architecture, key=jax.random.key(0))
    result = method_calibration(method, key=jax.random.key(SEED), simulations=20, draws=9)
    assert result.ranks.shape == (20, 3)


# --- Uniformity ---


@pytest.mark.parametrize(("simulations", "largest"), [(60, 9), (300, 99), (150, 1000)])
def test_p_values_of_uniform_ranks_are_uniform(simulations, largest):
    rng = np.random.default_rng(SEED)
    ranks = rng.integers(0, largest + 1, size=(simulations, 400))
    result = uniformity_test(ranks, largest)
    for p_values in (result.ecdf_p_values, result.chi_square_p_values):
        # They are discrete: at most as many small ones as there should be, up to chance of
        # four standard errors.
        for level in (0.01, 0.05, 0.2):
            share = np.mean(p_values <= level)
            assert share <= level + 4 * np.sqrt(level * (1 - level) / 400)
        assert np.mean(p_values <= 0.2) > 0.2 - 4 * np.sqrt(0.16 / 400) - 0.03


def test_the_band_holds_all_of_a_uniform_path():
    rng = np.random.default_rng(SEED)
    ranks = rng.integers(0, 100, size=(200, 2000))
    result = uniformity_test(ranks, 99)
    shares = np.mean(ranks[:, :, None] <= result.points, axis=0)
    low, high = result.band
    outside = np.any((shares < low) | (shares > high), axis=1)
    # Discrete bands hold at least 95%; a path outside is one with a p-value below 5%.
    assert outside.mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 2000)
    assert outside.mean() > 0.03
    assert np.mean(outside == (result.ecdf_p_values < 0.05)) > 0.99


def test_one_point_of_the_band_is_binomial():
    """With L = 1 there is one point, and the test is the exact binomial one."""
    ranks = np.repeat([[0], [1]], [37, 63], axis=0)
    result = uniformity_test(ranks, 1)
    expected = scipy.stats.binomtest(37, 100).pvalue
    error = np.sqrt(expected * (1 - expected) / 10_000)
    assert abs(result.ecdf_p_values[0] - expected) < 4 * error
    np.testing.assert_allclose(
        result.chi_square_p_values[0], scipy.stats.chisquare([37, 63]).pvalue
    )


def test_adjusted_p_values_are_holms():
    rng = np.random.default_rng(SEED)
    ranks = rng.integers(0, 100, size=(200, 5))
    ranks[:, 3] = ranks[:, 3] // 2
    result = uniformity_test(ranks, 99)
    assert result.adjusted_p_values[3] == 5 * result.ecdf_p_values[3]
    assert not result.uniform
    order = np.argsort(result.ecdf_p_values)
    assert np.all(np.diff(result.adjusted_p_values[order]) >= 0)
    largest = order[-1]
    second = result.ecdf_p_values[order[-2]]
    expected = max(result.ecdf_p_values[largest], min(1, 2 * second))
    assert result.adjusted_p_values[largest] >= min(1, expected)


# --- Messages ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"simulations": 19}, "simulations: expected at least 20, got 19"),
        ({"draws": 0}, "draws a simulation: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"names": ["a"]}, "number of names: expected 3, got 1"),
    ],
)
def test_messages_about_settings(settings, message):
    with pytest.raises(ConfigError) as error:
        calibrate(posterior(), **settings)
    assert str(error.value) == message


def test_message_about_draws_of_another_shape():
    with pytest.raises(ConfigError) as error:
        calibrate(lambda key, x, draws: posterior()(key, x, draws).T)
    assert str(error.value) == "shape of the posterior draws: expected (99, 3), got (3, 99)"


def test_message_about_a_true_value_that_is_no_vector():
    with pytest.raises(ConfigError) as error:
        simulation_based_calibration(
            lambda key: (jnp.zeros(()), jnp.zeros(1)), prior, key=jax.random.key(0)
        )
    assert str(error.value) == "number of axes of z: expected 1, got 0"


def test_message_about_draws_that_are_not_finite():
    def sample(key, x, draws: int):
        return jnp.where(x[0] > 0, posterior()(key, x, draws), jnp.nan)

    with pytest.raises(DataError) as error:
        calibrate(sample, simulations=20)
    finite = [simulate(jax.random.split(k, 3)[0])[1][0] > 0 for k in _simulation_keys(20)]
    bad = 20 - sum(map(int, finite))
    assert str(error.value) == (
        f"simulations: expected finite numbers, got NaN or infinity in {bad} of 20"
    )


def _simulation_keys(count: int):
    return jax.random.split(jax.random.key(SEED), count)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (np.zeros((9, 2), int), "ranks: expected shape (n, q) with n of 10 or more, got (9, 2)"),
        (np.zeros(20, int), "ranks: expected shape (n, q) with n of 10 or more, got (20,)"),
        (np.full((20, 1), 10), "ranks: expected integers from 0 to 9"),
        (np.zeros((20, 1)), "ranks: expected integers from 0 to 9"),
    ],
)
def test_messages_about_ranks(ranks, message):
    with pytest.raises(DataError) as error:
        uniformity_test(ranks, 9)
    assert str(error.value) == message
