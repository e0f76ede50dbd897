"""Even points, and the Gaussians given ε."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from avb.densities._points import even_points, shifted_normal
from avb.inference import Importance
from avb.inference._framed import single_frame
from avb.inference._mixture import MAX_COUPLED, ImplicitMixture
from avb.inference._train import draws_of_each, shared_components

SETS, COUNT, DIM = 2000, 64, 3


@pytest.fixture(scope="module")
def sets() -> np.ndarray:
    points = jnp.asarray(even_points(COUNT, DIM))
    keys = jax.random.split(jax.random.key(0), SETS)
    return np.asarray(jax.vmap(lambda key: shifted_normal(points, key))(keys), np.float64)


def test_each_point_is_standard_normal(sets):
    # The critical distance of Kolmogorov and Smirnov at 10⁻⁴, for three independent coordinates.
    for coordinate in range(DIM):
        assert st.kstest(sets[:, 7, coordinate], "norm").statistic < 2.23 / math.sqrt(SETS)
    correlation = np.corrcoef(sets[:, 7].T) - np.eye(DIM)
    assert np.abs(correlation).max() < 4 / math.sqrt(SETS)


def test_means_over_a_set_are_nearer_than_those_of_random_points(sets):
    # Of independent points the standard deviations would be 1 / √K and √(2 / K).
    assert np.std(sets.mean(axis=1)) < 0.3 / math.sqrt(COUNT)
    assert np.std((sets**2).mean(axis=1)) < 0.5 * math.sqrt(2 / COUNT)


@pytest.fixture(scope="module")
def mixture() -> ImplicitMixture:
    factor = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.1, -0.3, 0.2]], np.float32)
    frame = single_frame(jnp.array([1.0, -2.0, 0.5]), jnp.asarray(factor))
    untrained = ImplicitMixture(frame, jnp.zeros(1), key=jax.random.key(0))
    biases = jax.random.normal(jax.random.key(1), untrained.networks.layers[-1].bias.shape)
    return eqx.tree_at(lambda m: m.networks.layers[-1].bias, untrained, biases)


def test_the_density_given_noise_is_that_of_its_gaussian(mixture):
    noise = jax.random.normal(jax.random.key(2), (mixture.noise_dim,))
    given = mixture.components(noise)
    coupling = np.asarray(given.coupling[0], np.float64)
    assert np.abs(coupling).max() > 0.1
    root = np.linalg.inv(np.eye(DIM) + coupling) * np.exp(np.asarray(given.log_scale[0]))[None, :]
    factor = np.asarray(mixture.frames.factor[0], np.float64) @ root
    frame = mixture.frames
    mean = np.asarray(frame.loc[0] + frame.factor[0] @ given.loc[0], np.float64)
    z = mean + factor @ np.array([0.3, -1.0, 0.7])
    found = mixture.log_given(frame.whiten(jnp.asarray(z, jnp.float32)), given)
    expected = st.multivariate_normal.logpdf(z, mean, factor @ factor.T)
    assert float(found) == pytest.approx(expected, abs=2e-4)


def test_standard_and_white_are_each_others_inverse(mixture):
    given = mixture.components(jnp.ones(mixture.noise_dim))
    standard = jnp.array([0.5, -1.5, 2.0])
    white = given.white(jnp.array(0), standard)
    np.testing.assert_allclose(given.standard(white[None])[0], standard, atol=1e-4)


def test_many_dimensions_are_uncoupled():
    dim = MAX_COUPLED + 1
    frame = single_frame(jnp.zeros(dim), jnp.eye(dim))
    mixture = ImplicitMixture(frame, jnp.zeros(1), key=jax.random.key(0))
    assert mixture.components(jnp.zeros(dim)).coupling is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 25, 32])
def test_a_set_holds_whole_blocks_of_draws(count):
    from avb.inference._train import Budget

    each, components = draws_of_each(128, count), shared_components(Budget(), count)
    assert components % each == 0
    assert components & (components - 1) == 0


def test_upper_end_of_the_log_evidence_is_half_the_log_of_the_second_moment():
    log_weights = np.log(np.array([1.0, 2.0, 3.0, 6.0]))
    mean, square = np.exp(log_weights).mean(), np.exp(2 * log_weights).mean()
    effective = 4 * mean**2 / square
    found = Importance(math.log(mean), 0.1, effective, 0.3, 4)
    assert found.upper == pytest.approx(0.5 * math.log(square))
    assert Importance(0.0, 0.1, 0.0, 0.3, 4).upper == math.inf
