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
from avb.inference._mixture import MAX_COUPLED, Components, ImplicitMixture
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
    white = frame.whiten(jnp.asarray(z, jnp.float32))[None]
    found = mixture.log_sum(white, jax.tree.map(lambda leaf: leaf[None], given))
    expected = st.multivariate_normal.logpdf(z, mean, factor @ factor.T)
    assert float(found[0]) == pytest.approx(expected, abs=2e-4)


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


@pytest.mark.parametrize("narrow", [1.0, 0.01])
def test_squares_of_many_dimensions_are_those_of_each_pair(narrow):
    # As many nats as K = 2,048 components can hold: two coordinates known to 1%.
    dim, count = MAX_COUPLED + 8, 16
    random = np.random.default_rng(0)
    loc = random.standard_normal((count, 2, dim))
    log_scale = 0.3 * random.random((count, 2, dim))
    log_scale[..., :2] += np.log(narrow)
    white = loc + np.exp(log_scale) * random.standard_normal((count, 2, dim))
    given = Components(*(jnp.asarray(a, jnp.float32) for a in (loc, log_scale)), None)
    found = np.asarray(given.squares(jnp.asarray(white, jnp.float32)), np.float64)
    exact = (((white[:, None] - loc[None]) * np.exp(-log_scale[None])) ** 2).sum(axis=-1)
    terms = ((white[:, None] ** 2 + loc[None] ** 2) * np.exp(-2 * log_scale[None])).sum(axis=-1)
    assert np.all(np.abs(found - exact) < 1e-6 * terms)
    own = np.arange(count)
    np.testing.assert_allclose(found[own, own], exact[own, own], atol=0.02)


def test_draws_of_one_part_and_of_every_part_are_the_same(mixture):
    two = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, 2 * leaf]) if eqx.is_array(leaf) else leaf, mixture
    )
    given = two.components(jnp.ones(two.noise_dim))
    keys = jax.random.split(jax.random.key(3), 2)
    each = two.emit_each(given, keys)
    for part in (0, 1):
        np.testing.assert_allclose(
            two.emit(given, jnp.array(part), keys[part]), each[part], rtol=1e-5
        )


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 25, 32])
def test_a_set_holds_whole_blocks_of_draws(count):
    from avb.inference._train import Budget

    each, components = draws_of_each(128, count), shared_components(Budget(), count)
    assert components % each == 0
    assert components & (components - 1) == 0


def test_upper_end_of_the_log_evidence_is_half_the_log_of_the_second_moment():
    rng = np.random.default_rng(0)
    weights = rng.gamma(4.0, 1.0, (500, 1000))
    found = [Importance.of(np.log(row)) for row in weights]
    squares = np.mean(weights**2, axis=1)
    uppers = [one.upper for one in found]
    np.testing.assert_allclose(uppers, 0.5 * np.log(squares), rtol=1e-12)
    assert np.std(uppers) == pytest.approx(np.mean([one.upper_error for one in found]), rel=0.1)
    # Half the log of the expected square, 4 · 5.
    assert np.mean(uppers) == pytest.approx(0.5 * math.log(20.0), abs=0.003)
    nothing = Importance.of(np.full(30, -np.inf))
    assert (nothing.upper, nothing.upper_error) == (math.inf, math.inf)
