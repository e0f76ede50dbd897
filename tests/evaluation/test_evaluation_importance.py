"""Importance weighting: against plain NumPy and SciPy, with proposals that fit and that do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from avb import ConfigError
from avb._types import Features, Key, Latent
from avb.densities import DiagonalGaussian
from avb.evaluation import importance_bound
from avb.evaluation._importance import SAMPLES_AT_ONCE
from avb.evaluation._mixtures import fit_mixture
from avb.evaluation._proposals import fit_proposal, moments
from avb.evaluation._weights import log_mean_weights, pareto_k
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import AbstractPosterior, FullGaussianPosterior, GaussianPosterior
from core.test_core_helpers import (
    DATA_DIM,
    GAUSSIANS,
    LATENT_DIM,
    NOISE,
    data,
    exact_posterior,
    raw_of_scale,
)

X = data()
TRUTH = GAUSSIANS.log_evidence(X)
PROPOSALS = ("gaussian", "mixture", "flow")


def scaled_posterior(factor: float) -> FullGaussianPosterior:
    """The exact posterior, its scale multiplied."""
    covariance = GAUSSIANS.posterior_map()[2]
    scale = np.diag(np.linalg.cholesky(covariance))
    part = slice(LATENT_DIM, 2 * LATENT_DIM)
    raw = jnp.asarray(raw_of_scale(factor * scale), jnp.float32)
    posterior = exact_posterior()
    return eqx.tree_at(lambda p: p.head.bias, posterior, posterior.head.bias.at[part].set(raw))


def log_joint(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Log p(x, z) of the linear-Gaussian model, in float64, for rows of z."""
    residual = x - GAUSSIANS.bias - z @ GAUSSIANS.weight.T
    log_likelihood = scipy.stats.norm.logpdf(residual, scale=NOISE).sum(axis=1)
    return scipy.stats.norm.logpdf(z).sum(axis=1) + log_likelihood


def plain_importance(x, loc, covariance, samples, rng) -> tuple[float, float]:
    """Importance weighting in NumPy and SciPy alone: the log mean weight and its error."""
    proposal = scipy.stats.multivariate_normal(loc, covariance)
    z = proposal.rvs(samples, random_state=rng)
    log_weights = log_joint(x, z) - proposal.logpdf(z)
    weights = np.exp(log_weights - log_weights.max())
    error = weights.std(ddof=1) / weights.mean() / np.sqrt(samples)
    return log_weights.max() + np.log(weights.mean()), error


@pytest.fixture(scope="module")
def bounds():
    """The bound of the exact posterior with each proposal."""
    made = {}
    for name in PROPOSALS:
        made[name] = importance_bound(
            GAUSSIANS.model(), exact_posterior(), X, key=jax.random.key(5), proposal=name
        )
    return made


def test_identical_samples_give_the_same_as_numpy():
    samples, key = 130, jax.random.key(2)
    posterior = exact_posterior()
    got = importance_bound(GAUSSIANS.model(), posterior, X, key=key, samples=samples)
    key_fit, key = jax.random.split(key)
    proposal = fit_proposal("gaussian", posterior, X, key=key_fit)
    chunks = -(-samples // SAMPLES_AT_ONCE)

    @jax.jit
    def same_samples(x, key):
        key_moments, key_samples = jax.random.split(key)
        density = proposal.condition(posterior, posterior.encoder(x), key_moments)
        keys = jax.random.split(key_samples, (chunks, SAMPLES_AT_ONCE)).reshape(-1)[:samples]
        return density.loc, density.scale_tril, jax.vmap(density.sample)(keys)

    keys = jax.random.split(key, len(X))
    for row in range(len(X)):
        made = same_samples(jnp.asarray(X[row]), keys[row])
        loc, tril, z = (np.asarray(array, np.float64) for array in made)
        log_r = scipy.stats.multivariate_normal(loc, tril @ tril.T).logpdf(z)
        log_weights = log_joint(X[row], z) - log_r
        shares = scipy.special.softmax(log_weights)
        expected = scipy.special.logsumexp(log_weights) - np.log(samples)
        np.testing.assert_allclose(got.values[row], expected, atol=2e-5)
        np.testing.assert_allclose(got.effective[row], 1.0 / np.sum(shares**2), rtol=1e-4)
        spread = np.std(shares, ddof=1) * np.sqrt(samples)
        np.testing.assert_allclose(got.errors[row], spread, rtol=1e-3)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_every_proposal_agrees_with_plain_importance_sampling(proposal, bounds):
    rng = np.random.default_rng(0)
    gain, offset, covariance = GAUSSIANS.posterior_map()
    got = bounds[proposal]
    for row, x in enumerate(X):
        expected, error = plain_importance(x, gain @ x + offset, 2.0 * covariance, 4000, rng)
        assert abs(got.values[row] - expected) < 4 * np.hypot(got.errors[row], error)
        assert abs(got.values[row] - TRUTH[row]) < 4 * got.errors[row]
    assert (got.quantity, got.kind, got.flag) == ("log p(x)", "lower bound", None)
    titles = {"gaussian": "Gaussian", "mixture": "mixture", "flow": "flow"}
    assert got.detail == f"1000 importance samples, {titles[proposal]} proposal"


def test_pareto_k_tells_heavy_tails(bounds):
    narrow = importance_bound(
        GAUSSIANS.model(), scaled_posterior(0.2), X, key=jax.random.key(1), samples=1000
    )
    # Of a Gaussian proposal with a fraction f of the true scale it is 1 − f²: here 0.94.
    assert np.median(narrow.pareto_k) > 0.7
    assert np.all(bounds["gaussian"].pareto_k < 0.7)
    assert np.median(narrow.effective) < 0.2 * np.median(bounds["gaussian"].effective)


def test_pareto_k_of_pareto_weights():
    rng = np.random.default_rng(3)
    for k in (0.2, 0.5, 0.9):
        log_weights = np.log(scipy.stats.genpareto(k).rvs((40, 4000), random_state=rng))
        estimates = pareto_k(log_weights)
        # 189 weights in the tail; the fit draws k by 5% to a half.
        error = (1.0 + k) / np.sqrt(189) / np.sqrt(40)
        assert abs(estimates.mean() - k) < 4 * error + 0.05 * abs(0.5 - k) + 0.02


def test_pareto_k_of_weights_without_a_tail():
    one = np.full((1, 100), -np.inf)
    one[0, 3] = 0.0
    assert pareto_k(np.zeros((1, 100))) == [0.0]
    assert pareto_k(one) == [np.inf]
    assert pareto_k(np.full((1, 100), -np.inf)) == [np.inf]
    assert pareto_k(np.full((1, 100), np.nan)) == [np.inf]


def test_log_mean_weights_of_weights_that_vanish():
    mean = log_mean_weights(np.array([[-np.inf, np.log(3.0), np.log(3.0)], [-np.inf] * 3]))
    np.testing.assert_allclose(mean.values, [np.log(2.0), -np.inf])
    np.testing.assert_allclose(mean.effective, [2.0, 0.0])
    np.testing.assert_allclose(mean.errors, [np.std([0, 1.5, 1.5], ddof=1) / np.sqrt(3), np.inf])


class TwoSides(AbstractPosterior):
    """Half of the draws on each side of zero in the first coordinate."""

    encoder: eqx.nn.Lambda
    latent_dim: int = eqx.field(static=True)

    def draw(self, features: Features, key: Key) -> Latent:
        key_side, key_z = jax.random.split(key)
        side = jnp.where(jax.random.bernoulli(key_side), 1.0, -1.0)
        scale = jnp.asarray([0.05, 0.3])
        return jnp.asarray([1.0, 0.0]) * side * features[0] + scale * jax.random.normal(key_z, (2,))

    def frame(self, features: Features) -> DiagonalGaussian:
        return DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))


def squares() -> LatentVariableModel:
    """Observes the square of the first coordinate, and the second: a posterior of two modes."""

    def decoder(z: Latent):
        return jnp.stack([z[0] ** 2, z[1]])[None, :]

    return LatentVariableModel(standard_normal(2), decoder, FixedNormal(0.2), (2,))


def test_a_mixture_covers_two_modes():
    x = np.array([[2.0, 0.3]], np.float32)
    posterior = TwoSides(eqx.nn.Lambda(jnp.sqrt), 2)
    line = np.linspace(-8, 8, 20_001)
    step = line[1] - line[0]
    first = scipy.stats.norm.logpdf(line) + scipy.stats.norm.logpdf(2.0 - line**2, scale=0.2)
    second = scipy.stats.norm.logpdf(0.3, scale=np.sqrt(1.04))
    truth = scipy.special.logsumexp(first) + np.log(step) + second
    got = {}
    for name in PROPOSALS:
        got[name] = importance_bound(
            squares(), posterior, x, key=jax.random.key(0), samples=2000, proposal=name
        )
        assert abs(got[name].values[0] - truth) < 4 * got[name].errors[0]
    assert got["mixture"].effective[0] > 3 * got["gaussian"].effective[0]
    assert got["mixture"].pareto_k[0] < 0.7


def test_mixture_of_two_clusters():
    """On fresh draws it comes close to the density they are from."""
    rng = np.random.default_rng(1)

    def draw(count: int) -> np.ndarray:
        sides = np.where(rng.random(count) < 0.6, -3.0, 3.0)
        return sides[:, None] + 0.5 * rng.normal(size=(count, 2))

    seen, fresh = jnp.asarray(draw(500), jnp.float32), draw(4000)
    fitted = eqx.filter_jit(fit_mixture)(seen, moments(seen, 1.0), 8, jax.random.key(0))
    got = np.asarray(jax.jit(jax.vmap(fitted.log_prob))(jnp.asarray(fresh, jnp.float32)))
    each = [scipy.stats.norm.logpdf(fresh, at, 0.5).sum(axis=1) for at in (-3.0, 3.0)]
    true = np.logaddexp(np.log(0.6) + each[0], np.log(0.4) + each[1])
    # Half a nat for each of the 47 parameters and 500 draws, and as much for the prior.
    assert np.mean(true - got) < 2 * 0.5 * 47 / 500


def test_the_mixture_has_a_density():
    """It integrates to one, and its whitened draws have unit moments."""
    draws = jnp.asarray(np.random.default_rng(0).normal(size=(200, 2)), jnp.float32)
    mixture = eqx.filter_jit(fit_mixture)(draws, moments(draws, 1.0), 3, jax.random.key(0))
    line = np.linspace(-8, 8, 161)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).astype(np.float32)
    log_probs = np.asarray(jax.jit(jax.vmap(mixture.log_prob))(jnp.asarray(grid)), np.float64)
    np.testing.assert_allclose(np.exp(log_probs).sum() * 0.1**2, 1.0, rtol=1e-4)
    count = 20_000
    keys = jax.random.split(jax.random.key(1), count)
    white = np.asarray(jax.jit(jax.vmap(lambda k: mixture.whiten(mixture.sample(k))))(keys))
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=5 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(white.T), np.eye(2), atol=10 / np.sqrt(count))


def test_the_same_whatever_the_batch_size_and_from_the_same_key():
    told = []
    model, posterior, key = GAUSSIANS.model(), scaled_posterior(1.0), jax.random.key(7)
    settings = {"key": key, "samples": 60}
    whole = importance_bound(model, posterior, X, **settings)
    again = importance_bound(model, posterior, X, **settings)
    cut = importance_bound(
        model, posterior, X, **settings, batch_size=4, progress=lambda *at: told.append(at)
    )
    np.testing.assert_array_equal(whole.values, again.values)
    np.testing.assert_allclose(whole.values, cut.values, rtol=1e-5)
    np.testing.assert_allclose(whole.pareto_k, cut.pareto_k, atol=1e-2)
    assert told == [(3, 6), (6, 6)]


def test_too_few_samples_for_pareto_k():
    few = importance_bound(
        GAUSSIANS.model(), exact_posterior(), X, key=jax.random.key(0), samples=24
    )
    assert few.pareto_k is None


def test_bad_settings():
    model, posterior, key = GAUSSIANS.model(), exact_posterior(), jax.random.key(0)
    with pytest.raises(ConfigError) as caught:
        importance_bound(model, posterior, X, key=key, proposal="laplace")
    assert str(caught.value) == (
        "proposal of importance weighting: expected one of gaussian, mixture, flow, got 'laplace'"
    )
    one = GaussianPosterior(jnp.ravel, data_shape=(DATA_DIM,), latent_dim=1, key=key)

    def decoder(z: Latent):
        return jnp.stack([z[0], z[0], z[0]])[None, :]

    line = LatentVariableModel(standard_normal(1), decoder, FixedNormal(1.0), (DATA_DIM,))
    with pytest.raises(ConfigError) as caught:
        importance_bound(line, one, X, key=key, proposal="flow")
    assert str(caught.value) == (
        "a flow proposal needs at least 2 latent dimensions, got 1; use 'gaussian' or 'mixture'"
    )
