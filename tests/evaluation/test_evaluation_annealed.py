"""Annealing: against plain NumPy, its transitions, its settings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from avb import ConfigError, annealed_bound, bidirectional_bounds
from avb.densities import FullGaussian
from avb.evaluation import Estimate
from avb.evaluation._annealing import (
    Pilot,
    PosteriorStart,
    adaptive_temperatures,
    no_weight,
    sigmoid_temperatures,
    transition,
)
from avb.posteriors import GaussianPosterior
from core.test_core_helpers import DATA_DIM, GAUSSIANS, LATENT_DIM, NOISE, data, exact_posterior

X = data()
TRUTH = GAUSSIANS.log_evidence(X)
TEMPERATURES, CHAINS = 60, 32


def bad_posterior() -> GaussianPosterior:
    """An untrained encoder."""
    return GaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, key=jax.random.key(4)
    )


def anneal(**changed) -> Estimate:
    settings = {"key": jax.random.key(1), "temperatures": TEMPERATURES, "chains": CHAINS}
    return annealed_bound(GAUSSIANS.model(), exact_posterior(), X, **(settings | changed))


@pytest.fixture(scope="module")
def bounds() -> dict[tuple[str, str], Estimate]:
    pairs = [("posterior", "adaptive"), ("posterior", "sigmoid"), ("prior", "adaptive")]
    return {pair: anneal(start=pair[0], schedule=pair[1]) for pair in pairs}


def plain_annealing(x: np.ndarray, temperatures: int, chains: int, rng) -> np.ndarray:
    """Log weights by random-walk Metropolis from the prior, in NumPy and float64."""
    betas = np.linspace(0.0, 1.0, temperatures + 1) ** 4

    def log_likelihood(z):
        residual = x - GAUSSIANS.bias - z @ GAUSSIANS.weight.T
        return scipy.stats.norm.logpdf(residual, scale=NOISE).sum(axis=1)

    z = rng.normal(size=(chains, LATENT_DIM))
    log_weights = np.zeros(chains)
    for before, beta in itertools.pairwise(betas):
        log_weights += (beta - before) * log_likelihood(z)
        for step in (0.7, 0.3):
            proposed = z + step * rng.normal(size=z.shape)
            rise = beta * (log_likelihood(proposed) - log_likelihood(z))
            rise += 0.5 * np.sum(z**2 - proposed**2, axis=1)
            accepted = np.log(rng.random(chains)) < rise
            z = np.where(accepted[:, None], proposed, z)
    return log_weights


def test_agrees_with_plain_annealing(bounds):
    rng = np.random.default_rng(0)
    for row, x in enumerate(X):
        logs = plain_annealing(x, 200, 500, rng)
        weights = np.exp(logs - logs.max())
        expected = logs.max() + np.log(weights.mean())
        error = weights.std(ddof=1) / weights.mean() / np.sqrt(len(weights))
        for got in bounds.values():
            assert abs(got.values[row] - expected) < 4 * np.hypot(got.errors[row], error)


def test_just_below_the_evidence(bounds):
    for (start, schedule), got in bounds.items():
        # The bias is half the relative variance of the mean weight.
        gap = TRUTH - got.values - 0.5 * got.errors**2
        assert np.all(np.abs(gap) < 4 * got.errors + 1e-4)
        assert np.all((got.effective > 0.3 * CHAINS) & (got.effective <= CHAINS))
        assert (got.quantity, got.kind) == ("log p(x)", "lower bound")
        assert got.estimator == "annealed importance sampling"
        expected = f"{TEMPERATURES} {schedule} temperatures, {CHAINS} chains, from the {start}"
        assert got.detail == expected
        assert got.pareto_k is None


def test_a_bad_posterior_costs_accuracy_alone():
    model, posterior = GAUSSIANS.model(), bad_posterior()
    got = annealed_bound(
        model, posterior, X, key=jax.random.key(2), temperatures=TEMPERATURES, chains=CHAINS
    )
    assert np.all(np.abs(got.values - TRUTH) < 4 * got.errors + 0.5 * got.errors**2)


def test_same_key_same_bits_and_any_batch_size(bounds):
    told = []
    again = anneal(start="posterior", schedule="adaptive")
    np.testing.assert_array_equal(again.values, bounds["posterior", "adaptive"].values)
    # Rounding may turn one rejection into an acceptance; the rest of the chain differs then.
    cut = anneal(batch_size=4, progress=lambda *at: told.append(at))
    close = np.isclose(cut.values, again.values, atol=1e-3)
    assert np.mean(close) >= 0.5
    assert np.all(np.abs(cut.values - again.values) < 4 * np.hypot(cut.errors, again.errors))
    assert told == [(3, 6), (6, 6)]


def test_transitions_leave_their_distribution_unchanged():
    """From exact draws of f_β, which is a Gaussian here, to draws with the same moments."""
    loc, tril = np.array([0.5, -0.2]), np.array([[1.2, 0.0], [-0.4, 0.8]])
    gaussian = FullGaussian(jnp.asarray(loc, jnp.float32), jnp.asarray(tril, jnp.float32))
    start = PosteriorStart(jnp.asarray(X[0]), GAUSSIANS.model(), gaussian)
    beta, count = 0.4, 20_000
    # In u: precision (1 − β) I + β Lᵀ P L and its linear term, with P the joint's precision.
    gain, offset, true = GAUSSIANS.posterior_map()
    inner = tril.T @ np.linalg.inv(true)
    covariance = np.linalg.inv((1 - beta) * np.eye(2) + beta * inner @ tril)
    mean = covariance @ (beta * inner @ (gain @ X[0] + offset - loc))
    u = np.random.default_rng(0).multivariate_normal(mean, covariance, count)

    @jax.jit
    def move(u, keys):
        def once(u, key):
            moved = transition(start, u, jnp.float32(beta), jnp.float32(1.3), 2, key)
            return moved.u, moved.acceptance

        return jax.vmap(once)(u, keys)

    moved, acceptance = move(
        jnp.asarray(u, jnp.float32), jax.random.split(jax.random.key(0), count)
    )
    assert 0.3 < np.mean(acceptance) < 0.95
    np.testing.assert_allclose(np.mean(moved, axis=0), mean, atol=5 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(np.asarray(moved).T), covariance, atol=8 / np.sqrt(count))
    # Detailed balance: pairs (before, after) and (after, before) have the same distribution.
    cross = u.T @ (np.asarray(moved) ** 3) / count
    swapped = (u**3).T @ np.asarray(moved) / count
    np.testing.assert_allclose(cross, swapped.T, atol=5 * 8 / np.sqrt(count))


def test_sums_of_many_increments_keep_their_digits():
    terms = np.random.default_rng(0).normal(-700.0, 30.0, 20_000).astype(np.float32) / 20_000

    def add(weight, term):
        return weight.add(term), None

    got, _ = jax.jit(lambda terms: jax.lax.scan(add, no_weight(), terms))(jnp.asarray(terms))
    exact = float(np.sum(terms, dtype=np.float64))
    assert abs(float(got.total) - exact) < 4e-5  # half a unit in the last place, and a little
    assert float(no_weight().add(jnp.float32(-jnp.inf)).add(jnp.float32(1.0)).total) == -np.inf


def test_temperatures():
    sigmoid = np.asarray(sigmoid_temperatures(10))
    expected = scipy.special.expit(np.linspace(-4, 4, 11))
    expected = (expected - expected[0]) / (expected[-1] - expected[0])
    np.testing.assert_allclose(sigmoid, expected, atol=1e-6)
    assert (sigmoid[0], sigmoid[-1]) == (0.0, 1.0)
    coarse = jnp.linspace(0.0, 1.0, 1001)
    # A deviation of 1/√β: the distance is 2√β, so four fifths of the way follow the square.
    middle = 0.5 * (coarse[1:] + coarse[:-1])
    adapted = adaptive_temperatures(Pilot(coarse, jnp.zeros(1000), 1.0 / middle), 20)
    inverse = 0.8 * np.sqrt(adapted) + 0.2 * np.asarray(adapted)
    np.testing.assert_allclose(inverse, np.linspace(0, 1, 21), atol=0.02)
    assert np.all(np.diff(adapted) > 0)
    still = adaptive_temperatures(Pilot(coarse, jnp.zeros(1000), jnp.full(1000, jnp.nan)), 20)
    assert np.all(np.isfinite(still))
    assert (still[0], still[-1]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperatures": 1}, "temperatures of annealing: expected at least 2, got 1"),
        ({"chains": 1}, "chains of annealing: expected at least 2, got 1"),
        ({"leapfrog_steps": 0}, "leapfrog steps of annealing: expected at least 1, got 0"),
        ({"start": "mode"}, "start of annealing: expected one of posterior, prior, got 'mode'"),
        (
            {"schedule": "linear"},
            "schedule of annealing: expected one of sigmoid, adaptive, got 'linear'",
        ),
    ],
)
def test_bad_settings(changed, message):
    with pytest.raises(ConfigError) as caught:
        anneal(**changed)
    assert str(caught.value) == message
    with pytest.raises(ConfigError) as caught:
        bidirectional_bounds(GAUSSIANS.model(), exact_posterior(), key=jax.random.key(0), **changed)
    assert str(caught.value) == message


def test_no_data_to_simulate():
    with pytest.raises(ConfigError) as caught:
        bidirectional_bounds(
            GAUSSIANS.model(), exact_posterior(), key=jax.random.key(0), num_data=0
        )
    assert str(caught.value) == "data to simulate: expected at least 1, got 0"
