"""Mutual information, aggregate divergence and active units where they are known."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from avb import ConfigError, DataError
from avb.evaluation import Estimate, active_units, aggregate_kl, mutual_information
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import FlowPosterior, GaussianPosterior, ImplicitPosterior
from core.test_core_helpers import affine, known_mixture, known_mixture_loc, raw_of_scale

LOG_2PI = np.log(2.0 * np.pi)


def gaussian(weight: np.ndarray, scale: np.ndarray) -> GaussianPosterior:
    """q(z|x) = N(W x, diag scale²)."""
    dim, data_dim = weight.shape
    posterior = GaussianPosterior(
        jnp.ravel, data_shape=(data_dim,), latent_dim=dim, key=jax.random.key(0)
    )
    rows = np.concatenate([weight, np.zeros_like(weight)])
    head = affine(rows, np.concatenate([np.zeros(dim), raw_of_scale(scale)]))
    return eqx.tree_at(lambda p: p.head, posterior, head)


@functools.cache
def model(dim: int, data_dim: int) -> LatentVariableModel:
    """A model with a standard normal prior; nothing else of it matters here."""

    def decoder(z):
        return jnp.zeros((1, data_dim)) + 0.0 * jnp.sum(z)

    return LatentVariableModel(standard_normal(dim), decoder, FixedNormal(1.0), (data_dim,))


def normal_data(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def entropy_on_grid(log_density, reach: float, points: int) -> float:
    """−∫ q log q over a square grid of two dimensions."""
    axis = np.linspace(-reach, reach, points)
    log_q = log_density(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    return float(-np.sum(np.exp(log_q) * log_q) * (axis[1] - axis[0]) ** 2)


def log_aggregate(locs: np.ndarray, covariance: np.ndarray):
    """log 1/N Σ_i N(z; m_i, C) at many z."""

    def at(z: np.ndarray) -> np.ndarray:
        white = np.linalg.inv(np.linalg.cholesky(covariance))
        gaps = (z[:, None] - locs[None]) @ white.T
        log_qs = -0.5 * np.sum(gaps**2, axis=-1) + np.linalg.slogdet(white)[1] - LOG_2PI
        return scipy.special.logsumexp(log_qs, axis=1) - np.log(len(locs))

    return at


WEIGHT = np.array([[0.8, 0.2], [-0.3, 0.6]])
SCALE = np.array([0.5, 0.7])
CHANNEL = gaussian(WEIGHT, SCALE)
X = normal_data(40, 2)


@pytest.fixture(scope="module")
def exact_information() -> float:
    """I(x; z) of the 40 data of the channel, by a grid."""
    aggregate = log_aggregate(X @ WEIGHT.T, np.diag(SCALE**2))
    conditional = np.sum(np.log(SCALE)) + LOG_2PI + 1.0
    return entropy_on_grid(aggregate, 6.0, 161) - conditional


def test_information_of_given_data_against_a_grid(exact_information, key):
    lower, upper = mutual_information(CHANNEL, X, key=key, draws=256)
    assert lower is upper
    assert lower.kind == "exact"
    assert lower.quantity == "I(x; z)"
    assert lower.detail == "256 draws a datum, at most log N = 3.69, 40 of 40 data in q(z)"
    assert abs(lower.mean - exact_information) < 4 * lower.standard_error
    assert lower.standard_error < 0.02


def test_information_of_a_linear_gaussian_channel(key):
    """With many data it is that of x ~ N(0, I): ½ log det(I + W Wᵀ/s²), a little below it."""
    data = normal_data(1500, 2)
    truth = 0.5 * np.linalg.slogdet(np.eye(2) + (WEIGHT / SCALE[:, None]) @ (WEIGHT.T / SCALE))[1]
    estimate, _ = mutual_information(CHANNEL, data, key=key, draws=16)
    # The data are a sample: a datum's own information varies by about √(d/2) nats.
    spread = np.std(estimate.values) / np.sqrt(len(data))
    assert abs(estimate.mean - truth) < 4 * np.hypot(estimate.standard_error, spread)
    assert spread < 0.05


def test_a_part_of_the_data_in_the_mixture_gives_bounds(exact_information):
    found = [
        mutual_information(CHANNEL, X, key=key, draws=64, mixture_size=10)
        for key in jax.random.split(jax.random.key(5), 12)
    ]
    lower = np.array([pair[0].mean for pair in found])
    upper = np.array([pair[1].mean for pair in found])
    assert (found[0][0].kind, found[0][1].kind) == ("lower bound", "upper bound")
    assert np.all(lower <= np.log(10))
    error = lower.std(ddof=1) / np.sqrt(len(lower))
    assert lower.mean() < exact_information + 3 * error
    error = upper.std(ddof=1) / np.sqrt(len(upper))
    assert upper.mean() > exact_information - 3 * error
    assert lower.mean() < upper.mean()


@pytest.mark.parametrize("mixture_size", [None, 3])
def test_identical_data_have_no_information(mixture_size, key):
    data = np.ones((7, 2), np.float32)
    lower, upper = mutual_information(CHANNEL, data, key=key, draws=4, mixture_size=mixture_size)
    for estimate in (lower, upper):
        np.testing.assert_allclose(estimate.values, 0.0, atol=1e-5)


def test_data_far_apart_are_all_told_apart(key):
    data = 1000.0 * np.stack([np.arange(6), np.arange(6)], axis=1)
    estimate, _ = mutual_information(CHANNEL, data, key=key, draws=4)
    np.testing.assert_allclose(estimate.values, np.log(6), atol=1e-5)


MIXTURE, MIXTURE_COVARIANCE = known_mixture()
MIXTURE_X = 1.5 * normal_data(12, 3, seed=1)


@pytest.fixture(scope="module")
def mixture_truth() -> tuple[float, float]:
    """I(x; z) and KL(q(z) ‖ p(z)) of 12 data of a semi-implicit posterior, by a grid."""
    locs = known_mixture_loc(MIXTURE_X)
    entropy = entropy_on_grid(log_aggregate(locs, MIXTURE_COVARIANCE), 8.0, 201)
    conditional = 0.5 * np.linalg.slogdet(2.0 * np.pi * np.e * MIXTURE_COVARIANCE)[1]
    squares = np.mean(np.sum(locs**2, axis=1)) + np.trace(MIXTURE_COVARIANCE)
    return entropy - conditional, -entropy + LOG_2PI + 0.5 * squares


@pytest.mark.parametrize("components", [2, 64])
def test_bounds_of_a_semi_implicit_posterior(components, mixture_truth, key):
    settings = {"draws": 512, "components": components}
    information = mutual_information(MIXTURE, MIXTURE_X, key=key, **settings)
    divergence = aggregate_kl(model(2, 3), MIXTURE, MIXTURE_X, key=key, **settings)
    for (lower, upper), truth in zip((information, divergence), mixture_truth, strict=True):
        assert (lower.kind, upper.kind) == ("lower bound", "upper bound")
        assert lower.detail.endswith(f"12 of 12 data in q(z), K = {components}")
        width = upper.mean - lower.mean
        # Components are shared by all draws; over them the mean varies by less than the width.
        assert lower.mean - 3 * lower.standard_error < truth
        assert truth < upper.mean + 3 * upper.standard_error
        assert width > 0
        assert width < {2: 2.0, 64: 0.1}[components]
    assert information[1].mean <= np.log(12)


def test_bounds_of_a_semi_implicit_posterior_with_a_part_of_the_data(mixture_truth):
    settings = {"draws": 128, "components": 16, "mixture_size": 6}
    keys = jax.random.split(jax.random.key(7), 12)
    for index, truth in enumerate(mixture_truth):
        found = [
            mutual_information(MIXTURE, MIXTURE_X, key=key, **settings)
            if index == 0
            else aggregate_kl(model(2, 3), MIXTURE, MIXTURE_X, key=key, **settings)
            for key in keys
        ]
        lower = np.array([pair[0].mean for pair in found])
        upper = np.array([pair[1].mean for pair in found])
        assert lower.mean() < truth + 3 * lower.std(ddof=1) / np.sqrt(len(keys))
        assert upper.mean() > truth - 3 * upper.std(ddof=1) / np.sqrt(len(keys))


def test_information_and_divergence_add_up_to_the_mean_divergence(key):
    """E_x KL(q(z|x) ‖ p) = I(x; z) + KL(q(z) ‖ p), each with draws of its own."""
    information, _ = mutual_information(CHANNEL, X, key=key, draws=256)
    divergence, same = aggregate_kl(model(2, 2), CHANNEL, X, key=jax.random.key(9), draws=256)
    squares = np.sum((X @ WEIGHT.T) ** 2, axis=1) + np.sum(SCALE**2)
    expected = np.mean(0.5 * squares - 1.0 - np.sum(np.log(SCALE)))
    error = np.hypot(information.standard_error, divergence.standard_error)
    assert divergence is same
    assert (divergence.quantity, divergence.kind) == ("KL(q(z) ‖ p(z))", "exact")
    assert abs(information.mean + divergence.mean - expected) < 4 * error


def test_an_aggregate_that_is_the_prior_has_no_divergence(key):
    """Where no datum matters and q(z|x) = p(z), both numbers are zero without variance."""
    posterior = gaussian(np.zeros((2, 2)), np.ones(2))
    for found in (
        aggregate_kl(model(2, 2), posterior, X, key=key, draws=4),
        mutual_information(posterior, X, key=key, draws=4),
    ):
        np.testing.assert_allclose(found[0].values, 0.0, atol=1e-5)


def test_divergence_of_many_data_that_spread_like_the_prior(key):
    """z = a x + √(1 − a²) e with x ~ N(0, I) has q(z) = p(z) but for the finite sample."""
    posterior = gaussian(0.8 * np.eye(2), np.full(2, 0.6))
    few, many = (
        aggregate_kl(model(2, 2), posterior, normal_data(n, 2), key=key)[0].mean for n in (30, 1000)
    )
    # About d_eff/2N, with d_eff the volume of the prior in units of that of q(z|x).
    assert 0.0 < many < 0.01
    assert many < 0.2 * few


def test_a_flow_is_exact(key):
    posterior = FlowPosterior(jnp.ravel, data_shape=(2,), latent_dim=2, layers=2, width=8, key=key)
    estimate, _ = mutual_information(posterior, X[:10], key=key, draws=8)
    assert estimate.kind == "exact"
    assert -3 * estimate.standard_error < estimate.mean < np.log(10)


@pytest.mark.parametrize("posterior", [CHANNEL, MIXTURE], ids=["density", "semi-implicit"])
def test_same_key_same_information_whatever_the_batch_size(posterior, key):
    data = X[:9] if posterior is CHANNEL else MIXTURE_X[:9]
    told = []

    def means(batch_size: int, progress=None) -> np.ndarray:
        pair = mutual_information(
            posterior,
            data,
            key=key,
            draws=20,
            mixture_size=5,
            components=3,
            batch_size=batch_size,
            progress=progress,
        )
        return np.concatenate([estimate.values for estimate in pair])

    first = means(5, lambda done, total: told.append((done, total)))
    assert told == [(5, 9), (9, 9)]
    np.testing.assert_array_equal(first, means(5))
    np.testing.assert_allclose(first, means(9), atol=1e-5)


def implicit(key) -> ImplicitPosterior:
    return ImplicitPosterior(jnp.ravel, data_shape=(2,), latent_dim=2, width=4, key=key)


def test_what_has_no_information_is_refused(key):
    def message(error, function, *arguments, **settings) -> str:
        with pytest.raises(error) as caught:
            function(*arguments, key=key, **settings)
        return str(caught.value)

    assert message(ConfigError, mutual_information, implicit(key), X) == (
        "mutual information needs a posterior whose density is known or bounded, got "
        "ImplicitPosterior: use a posterior with a density or a SemiImplicitPosterior"
    )
    assert message(ConfigError, aggregate_kl, model(2, 2), implicit(key), X) == (
        "the aggregate divergence needs a posterior whose density is known or bounded, got "
        "ImplicitPosterior: use a posterior with a density or a SemiImplicitPosterior"
    )
    assert message(ConfigError, mutual_information, CHANNEL, X, mixture_size=41) == (
        "mixture_size of mutual information: expected 1 to 40, the number of data, got 41"
    )
    assert message(ConfigError, mutual_information, MIXTURE, MIXTURE_X, components=0) == (
        "components of mutual information: expected a positive number, got 0"
    )
    assert message(ConfigError, mutual_information, CHANNEL, X, draws=1) == (
        "draws a datum: expected at least 2 for a standard error, got 1"
    )
    assert message(DataError, mutual_information, CHANNEL, X[:, :1]) == (
        "data to evaluate: expected data of a shape that the encoder takes, got (1,) a datum"
    )
    assert message(DataError, active_units, CHANNEL, X[:1]) == (
        "active units: expected at least 2 data, got 1"
    )


def test_active_units_with_known_variances(key):
    """The second dimension sees nothing, the third too little of the datum."""
    data = normal_data(200, 2)
    weight = np.array([[0.8, 0.2], [0.0, 0.0], [0.05, 0.0]])
    posterior = gaussian(weight, np.array([0.5, 1.0, 1.0]))
    units = active_units(posterior, data, key=key, draws=256)
    truth = np.var(data @ weight.T, axis=0, ddof=1)
    assert np.all(np.abs(units.variances - truth) < 4 * units.errors)
    assert np.all(units.errors < 0.005)
    assert units.count == 1
    assert units.as_dict()["active_units"] == 1


def test_few_draws_do_not_make_a_collapsed_dimension_active():
    """The means' own Monte Carlo error, here 1/4 squared, is taken off; its spread is known."""
    posterior = gaussian(np.zeros((2, 2)), np.ones(2))
    data = normal_data(100, 2)
    found = [
        active_units(posterior, data, key=key, draws=16)
        for key in jax.random.split(jax.random.key(3), 40)
    ]
    variances = np.stack([units.variances for units in found])
    expected_error = np.sqrt(2.0 / 99) / 16
    np.testing.assert_allclose(variances.std(), expected_error, rtol=0.3)
    np.testing.assert_allclose(np.mean([u.errors for u in found]), expected_error, rtol=0.3)
    assert abs(variances.mean()) < 4 * expected_error / np.sqrt(variances.size)


def test_active_units_of_an_implicit_posterior_whatever_the_batch_size(key):
    first = active_units(implicit(key), X, key=key, draws=70, batch_size=16)
    again = active_units(implicit(key), X, key=key, draws=70, batch_size=16)
    np.testing.assert_array_equal(first.variances, again.variances)
    whole = active_units(implicit(key), X, key=key, draws=70)
    np.testing.assert_allclose(first.variances, whole.variances, rtol=1e-5)


def test_estimates_are_ready_for_a_table(key):
    lower, _ = mutual_information(CHANNEL, X, key=key, draws=4)
    assert isinstance(lower, Estimate)
    assert lower.as_dict()["estimator"] == "aggregate posterior"
