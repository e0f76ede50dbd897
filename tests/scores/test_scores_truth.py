"""Score estimators against scores known in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments._critics import draws, relative
from experiments._linear_gaussian import known_mixture
from experiments.shell import problem, score_error

from avb import ConfigError, DataError
from avb.densities import FullGaussian
from avb.densities._full_mixture import FullMixture
from avb.evaluation._fresh_training import Corner, prepare
from avb.posteriors import SemiImplicitPosterior
from avb.posteriors._mixture import MixturePosterior
from avb.scores import ScoreCritic, fit_score, spectral_score, stein_score
from avb.scores._fit import SMOOTHING, conditional_pair, smoothed_pair

GAUSSIAN = FullGaussian(jnp.asarray([1.0, -2.0]), jnp.asarray([[0.5, 0.0], [0.6, 0.2]]))
# Two modes, four of their scales apart.
BIMODAL = FullMixture(
    jnp.log(jnp.asarray([0.7, 0.3])),
    jnp.asarray([[-1.0, 0.0], [1.0, 1.0]]),
    jnp.stack([2.0 * jnp.eye(2), 2.0 * jnp.eye(2)]),
)
DENSITIES = {"gaussian": GAUSSIAN, "bimodal": BIMODAL}
DATA = np.zeros((2, 3), np.float32)


@eqx.filter_jit
def score_of(density, z):
    return jax.vmap(jax.grad(density.log_prob))(z)


@pytest.fixture(scope="module")
def semi_implicit() -> tuple[SemiImplicitPosterior, FullGaussian]:
    """z = b + A ε + s η, which is Gaussian."""
    mixing, scale = np.asarray([[0.8, 0.0], [0.5, 0.4]]), 0.3
    loc = np.asarray([0.5, -1.0])
    covariance = mixing @ mixing.T + scale**2 * np.eye(2)
    tril = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    return known_mixture(loc, mixing, scale, 3), FullGaussian(jnp.asarray(loc, jnp.float32), tril)


@pytest.fixture(scope="module")
def fitted(semi_implicit):
    return fit_score(semi_implicit[0], DATA, key=jax.random.key(0), steps=400)


def corner_of(posterior, gaussian: FullGaussian) -> Corner:
    return Corner(posterior, jnp.zeros(3), jnp.zeros(3), gaussian)


def test_untrained_score_is_that_of_the_gaussian(key):
    critic = ScoreCritic(3, 2, key=key)
    z = draws(GAUSSIAN, key, 50)
    got = jax.vmap(lambda z: critic.score(jnp.ones(3), GAUSSIAN, z))(z)
    np.testing.assert_allclose(got, score_of(GAUSSIAN, z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothed", [False, True], ids=["conditional", "smoothed"])
def test_mean_of_the_targets_is_the_score(semi_implicit, key, smoothed):
    posterior, truth = semi_implicit
    corner = corner_of(posterior, truth)
    pair = smoothed_pair if smoothed else conditional_pair
    pairs = jax.jit(jax.vmap(lambda key: pair(corner, key)))
    z, target = pairs(jax.random.split(key, 200_000))
    white = jax.vmap(truth.whiten)(z)
    # The score of the whitened Gaussian, whose covariance the smoothing adds to.
    expected = -white / (1.0 + SMOOTHING**2 if smoothed else 1.0)
    missed = np.asarray((target - expected)[:, :, None] * white[:, None, :], np.float64)
    error = missed.std(axis=0) / np.sqrt(len(missed))
    assert np.all(np.abs(missed.mean(axis=0)) < 5.0 * error)


def test_score_critic_on_a_semi_implicit_posterior(semi_implicit, fitted, key):
    z = draws(semi_implicit[1], key, 2000)
    assert relative(fitted.score(jnp.asarray(1), z), score_of(semi_implicit[1], z)) < 0.1


def test_score_critic_is_the_same_from_the_same_key(semi_implicit, fitted):
    again = fit_score(semi_implicit[0], DATA, key=jax.random.key(0), steps=400)
    assert eqx.tree_equal(fitted.critic, again.critic)


def test_score_critic_on_draws_alone(key):
    posterior = MixturePosterior(
        jnp.ravel, data_shape=(3,), latent_dim=2, components=2, key=jax.random.key(0)
    )
    posterior = eqx.tree_at(
        lambda p: p.head.bias,
        posterior,
        posterior.head.bias.reshape(2, -1).at[:, 1:3].set(BIMODAL.loc).at[:, 3:5].set(-0.7).ravel(),
    )
    truth = posterior.density(jnp.zeros(3))
    found = fit_score(posterior, DATA, key=jax.random.key(1), steps=800)
    z = draws(truth, key, 2000)
    exact = score_of(truth, z)
    gaussian = found.arena.at(jnp.asarray(0)).contrast
    error = relative(found.score(jnp.asarray(0), z), exact)
    assert error < 0.2
    assert error < 0.5 * relative(score_of(gaussian, z), exact)


@pytest.mark.parametrize("name", DENSITIES)
def test_kernel_estimators_are_nearer_with_more_draws(name, key):
    density = DENSITIES[name]
    points = draws(density, key, 500)

    @jax.jit
    def errors(z):
        stein = relative(stein_score(z), score_of(density, z))
        return stein, relative(spectral_score(z, points), score_of(density, points))

    few, many = (errors(draws(density, jax.random.key(n), n)) for n in (50, 500))
    assert many[0] < few[0]
    assert many[1] < few[1]
    # No estimate at all, the score 0, has an error of 1.
    assert max(many) < (0.35 if name == "gaussian" else 0.7)


def test_kernel_estimators_follow_the_scale_of_each_coordinate(key):
    z = draws(BIMODAL, key, 200)
    # Powers of two change no rounding, which might add or drop an eigenfunction.
    scale = jnp.asarray([4.0, 0.125])[None, :]
    for estimate in (jax.jit(stein_score), jax.jit(lambda z: spectral_score(z, z))):
        assert relative(estimate(z * scale), estimate(z) / scale) < 1e-3


def test_errors_of_the_estimators(semi_implicit, key):
    posterior, _ = semi_implicit
    with pytest.raises(ConfigError) as error:
        fit_score(posterior, DATA, key=key, steps=0)
    assert str(error.value) == "steps of the score critic: expected at least 1, got 0"
    with pytest.raises(DataError) as error:
        fit_score(posterior, np.zeros((0, 3)), key=key)
    assert str(error.value) == "data to evaluate: expected at least one datum, got none"
    with pytest.raises(ConfigError) as error:
        stein_score(jnp.zeros((4, 3)))
    assert (
        str(error.value)
        == "draws of a kernel estimator in 3 dimensions: expected at least 5, got 4"
    )
    with pytest.raises(ConfigError) as error:
        stein_score(jnp.zeros((9, 3)), ridge=0.0)
    assert str(error.value) == "ridge of the Stein estimator: expected a positive number, got 0.0"
    with pytest.raises(ConfigError) as error:
        spectral_score(jnp.zeros((9, 3)), jnp.zeros((1, 3)), kept=1.0)
    assert str(error.value) == "share of the eigenvalues: expected a number in (0, 1), got 1.0"


def test_it_is_found_among_many_features(key):
    posterior, data = problem(300)
    arena = prepare(posterior, data, key=key, batch_size=64)
    assert score_error(arena, divided=True, steps=1000, key=key) < 0.75
