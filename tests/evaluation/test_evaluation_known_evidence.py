"""Brackets of log p(x) where the evidence is known: closed forms, conjugacy, a grid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats

from avb import annealed_bound, bidirectional_bounds, importance_bound
from avb.evaluation import Estimate
from avb.evaluation._bidirectional import simulated_data
from avb.models import Bernoulli, LatentVariableModel, Poisson
from avb.models._latent import standard_normal
from avb.nets import MLPDecoder
from avb.posteriors import GaussianPosterior
from core.test_core_helpers import GAUSSIANS, exact_posterior

NUM_DATA, CHAINS = 40, 16
# What three standard errors are to a normal variable; of few chains the error is uncertain too.
ERRORS = scipy.stats.t.isf(scipy.stats.norm.sf(3.0), CHAINS - 1)


def untrained(data_dim: int, latent_dim: int) -> GaussianPosterior:
    """An encoder that knows nothing."""
    return GaussianPosterior(
        jnp.ravel, data_shape=(data_dim,), latent_dim=latent_dim, key=jax.random.key(9)
    )


def assert_bracketed(lower: Estimate, truth: np.ndarray, upper: Estimate) -> None:
    """Nearly every datum, and the mean over all."""
    below = lower.values - ERRORS * lower.errors <= truth
    assert np.mean(below & (truth <= upper.values + ERRORS * upper.errors)) >= 0.95
    assert lower.mean - 3 * lower.standard_error < truth.mean()
    assert truth.mean() < upper.mean + 3 * upper.standard_error


@pytest.fixture(scope="module")
def sandwiches() -> dict[int, tuple[Estimate, Estimate]]:
    """Of the linear-Gaussian model with a posterior that is wrong, by temperatures."""
    return {
        temperatures: bidirectional_bounds(
            GAUSSIANS.model(),
            untrained(3, 2),
            key=jax.random.key(3),
            num_data=NUM_DATA,
            temperatures=temperatures,
            chains=CHAINS,
            start="prior",
        )
        for temperatures in (4, 20, 100)
    }


@pytest.fixture(scope="module")
def simulated() -> np.ndarray:
    return simulated_data(GAUSSIANS.model(), key=jax.random.key(3), num_data=NUM_DATA)


def test_sandwich_of_a_closed_form(sandwiches, simulated):
    truth = GAUSSIANS.log_evidence(simulated)
    for lower, upper in sandwiches.values():
        assert_bracketed(lower, truth, upper)
        assert (lower.kind, upper.kind) == ("lower bound", "upper bound")
        assert lower.quantity == upper.quantity == "log p(x), simulated data"
        assert (lower.estimator, upper.estimator) == (
            "annealed importance sampling",
            "reverse annealing",
        )
        assert lower.effective.shape == upper.effective.shape == (NUM_DATA,)


def test_the_gap_shrinks_as_temperatures_grow(sandwiches):
    gaps = [upper.mean - lower.mean for lower, upper in sandwiches.values()]
    assert gaps == sorted(gaps, reverse=True)
    lower, upper = sandwiches[100]
    assert abs(gaps[-1]) < 0.03 + 3 * np.hypot(lower.standard_error, upper.standard_error)
    assert gaps[0] > 0.2


def test_simulated_data_come_from_the_model():
    count = 4000
    x = simulated_data(GAUSSIANS.model(), key=jax.random.key(0), num_data=count)
    covariance = GAUSSIANS.weight @ GAUSSIANS.weight.T + 0.36 * np.eye(3)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), GAUSSIANS.bias, atol=5 * 1.3 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=10 / np.sqrt(count))


def test_sandwich_is_the_same_from_the_same_key():
    settings = {"key": jax.random.key(3), "num_data": 5, "temperatures": 4, "chains": 2}
    told = []
    first = bidirectional_bounds(GAUSSIANS.model(), exact_posterior(), **settings)
    again = bidirectional_bounds(
        GAUSSIANS.model(), exact_posterior(), **settings, progress=lambda *at: told.append(at)
    )
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    assert told == [(5, 5)]


@pytest.fixture(scope="module")
def conjugate() -> tuple[LatentVariableModel, np.ndarray]:
    """Counts with gamma rates, in the logs of the rates, and their exact evidence."""
    shape, rate, counts = 1.5, 0.5, 3
    log_gamma = dist.TransformedDistribution(
        dist.Gamma(shape, rate), dist.transforms.ExpTransform().inv
    )

    def decoder(z):
        return jnp.repeat(z, counts)[None, :]

    model = LatentVariableModel(
        log_gamma.expand((2,)).to_event(1), decoder, Poisson(), (2 * counts,)
    )
    x = simulated_data(model, key=jax.random.key(5), num_data=NUM_DATA).astype(np.float64)
    total = shape + x.reshape(NUM_DATA, 2, counts).sum(axis=2)
    gammaln = scipy.special.gammaln
    each = shape * np.log(rate) - gammaln(shape) + gammaln(total) - total * np.log(rate + counts)
    return model, each.sum(axis=1) - gammaln(x + 1.0).sum(axis=1)


def conjugate_bounds(model: LatentVariableModel, **settings) -> tuple[Estimate, Estimate]:
    return bidirectional_bounds(
        model,
        untrained(6, 2),
        key=jax.random.key(5),
        num_data=NUM_DATA,
        chains=CHAINS,
        **settings,
    )


def test_conjugate_rates(conjugate):
    model, truth = conjugate
    lower, upper = conjugate_bounds(model, temperatures=100, start="prior")
    assert_bracketed(lower, truth, upper)
    assert upper.mean - lower.mean < 0.2


def test_a_start_where_the_likelihood_overflows_loosens_the_bounds_and_no_more(conjugate):
    # An untrained encoder puts log rates at ± 100, and the rates beyond the largest float.
    model, truth = conjugate
    lower, upper = conjugate_bounds(model, temperatures=60, start="posterior")
    assert not np.isnan(lower.values).any()
    assert not np.isnan(upper.values).any()
    assert np.mean(lower.values - ERRORS * lower.errors <= truth) >= 0.95
    assert np.mean(truth <= upper.values + ERRORS * upper.errors) >= 0.95


def grid_evidence(model: LatentVariableModel, x: np.ndarray) -> np.ndarray:
    """log ∫ p(x, z) dz over a 2-d grid."""
    line = np.linspace(-6.0, 6.0, 241)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    sweep = jax.jit(jax.vmap(model.log_joint, (None, 0)))
    logs = [np.asarray(sweep(one, jnp.asarray(grid, jnp.float32)), np.float64) for one in x]
    return scipy.special.logsumexp(logs, axis=1) + 2 * np.log(line[1] - line[0])


def test_nonlinear_decoder_against_a_grid():
    decoder = MLPDecoder(2, (1, 12), width=12, depth=1, key=jax.random.key(0))
    decoder = eqx.tree_at(
        lambda d: [layer.weight for layer in d.layers.layers],
        decoder,
        [4.0 * layer.weight for layer in decoder.layers.layers],
    )
    model = LatentVariableModel(standard_normal(2), decoder, Bernoulli(), (12,))
    posterior, key = untrained(12, 2), jax.random.key(6)
    x = simulated_data(model, key=key, num_data=NUM_DATA)
    assert set(np.unique(x)) == {0.0, 1.0}
    truth = grid_evidence(model, x)
    lower, upper = bidirectional_bounds(
        model, posterior, key=key, num_data=NUM_DATA, temperatures=60, chains=CHAINS
    )
    assert_bracketed(lower, truth, upper)
    weighted = importance_bound(model, posterior, x, key=key, samples=2000)
    assert_bracketed(weighted, truth, upper)
    alone = annealed_bound(model, posterior, x, key=key, temperatures=60, chains=CHAINS)
    assert_bracketed(alone, truth, upper)
