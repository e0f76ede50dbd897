"""Draws moved by Hamiltonian Monte Carlo, on a linear-Gaussian model whose posterior is known."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_core_helpers import (
    DATA_DIM,
    GAUSSIANS,
    LATENT_DIM,
    NOISE,
    Gaussians,
    affine,
    aggregate,
    data,
    divergence_from_prior,
    exact_posterior,
    raw_of_scale,
)

import avb
from avb import FitConfig, Method
from avb.evaluation._annealing import ACCEPTANCE
from avb.posteriors import GaussianPosterior
from avb.training import _prior, total_loss
from avb.training._refine import FIRST_STEP_SIZE, Chains, refine

X = data()
DRAWS = 2000


def poor_posterior() -> GaussianPosterior:
    """A Gaussian that is wide, far off, and the same for all data."""
    posterior = GaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, key=jax.random.key(4)
    )
    constants = np.concatenate([np.ones(LATENT_DIM), raw_of_scale(np.full(LATENT_DIM, 0.8))])
    head = affine(np.zeros((len(constants), DATA_DIM)), constants)
    return eqx.tree_at(lambda p: p.head, posterior, head)


def moved(method: Method, key, calls: int = 1):
    """The draws of the last of some calls, of shape (n, draws, d), and its chains."""
    chains = Chains.first()
    compiled = eqx.filter_jit(refine)
    for key_call in jax.random.split(key, calls):
        rows, chains = compiled(method, jnp.asarray(X), key_call, chains)
    return np.asarray(rows, np.float64).reshape(len(X), -1, LATENT_DIM), chains


def expect_posterior(draws: np.ndarray):
    gain, offset, covariance = GAUSSIANS.posterior_map()
    scale = np.sqrt(np.diag(covariance))
    error = 5 * scale / np.sqrt(draws.shape[1])
    assert np.all(np.abs(draws.mean(axis=1) - (X @ gain.T + offset)) < error)
    for of_datum in draws:
        found = np.cov(of_datum.T)
        tolerance = 5 * np.sqrt(2 / draws.shape[1])
        assert np.all(np.abs(found - covariance) < tolerance * np.outer(scale, scale))


@pytest.mark.parametrize(
    ("posterior", "transitions"), [(poor_posterior(), 60), (exact_posterior(), 2)]
)
def test_draws_arrive_at_the_posterior_and_stay_there(posterior, transitions, key):
    method = Method(
        GAUSSIANS.model(), posterior, posterior_draws=DRAWS, hmc_transitions=transitions
    )
    expect_posterior(moved(method, key)[0])


def test_few_transitions_go_part_of_the_way(key):
    model, posterior = GAUSSIANS.model(), poor_posterior()
    levels = []
    for transitions in (0, 2, 8):
        method = Method(model, posterior, posterior_draws=DRAWS, hmc_transitions=transitions)
        draws = jnp.asarray(moved(method, key)[0], jnp.float32)
        of_datum = jax.vmap(model.log_joint, in_axes=(None, 0))
        levels.append(float(jnp.mean(jax.vmap(of_datum)(jnp.asarray(X), draws))))
    assert levels[0] + 0.5 < levels[1] < levels[2] - 0.02


def test_the_step_size_follows_the_acceptance(key):
    method = Method(GAUSSIANS.model(), exact_posterior(), posterior_draws=50, hmc_transitions=4)
    _, chains = moved(method, key, calls=60)
    assert float(chains.acceptance) == pytest.approx(ACCEPTANCE, abs=0.05)
    assert np.exp(chains.log_step_size) > 2 * FIRST_STEP_SIZE


def model_gradient(method: Method, key, *, refined: bool) -> np.ndarray:
    def loss(method: Method):
        rows = refine(method, jnp.asarray(X), key, Chains.first())[0] if refined else None
        return total_loss(method, jnp.asarray(X), key, jnp.ones(()), rows)[0]

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(method).model
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def evidence_gradient() -> np.ndarray:
    def loss(linear: eqx.nn.Linear):
        covariance = linear.weight @ linear.weight.T + NOISE**2 * jnp.eye(DATA_DIM)
        centred = X - linear.bias[None, :]
        squared = jnp.einsum("ni,ij,nj->n", centred, jnp.linalg.inv(covariance), centred)
        return 0.5 * jnp.mean(squared + jnp.linalg.slogdet(covariance)[1])

    gradient = eqx.filter_grad(loss)(GAUSSIANS.model().decoder.linear)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def test_the_model_climbs_the_evidence_and_not_the_bound(key):
    method = Method(GAUSSIANS.model(), poor_posterior(), posterior_draws=DRAWS, hmc_transitions=40)
    expected = evidence_gradient()
    found = model_gradient(method, key, refined=True)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    bound = model_gradient(method, key, refined=False)
    assert np.linalg.norm(bound - expected) > np.linalg.norm(expected)


@pytest.mark.parametrize("importance_samples", [1, 5])
def test_the_posterior_climbs_the_bound_as_it_does_without(importance_samples, key):
    method = Method(GAUSSIANS.model(), poor_posterior(), importance_samples=importance_samples)

    def gradient(rows):
        return eqx.filter_grad(
            lambda method: total_loss(method, jnp.asarray(X), key, jnp.ones(()), rows)[0]
        )(method).posterior

    plain, refined = gradient(None), gradient(jnp.zeros((len(X), LATENT_DIM)))
    for left, right in zip(jax.tree.leaves(plain), jax.tree.leaves(refined), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_training_with_a_poor_posterior_finds_the_model_of_highest_likelihood(key):
    """Of a posterior that cannot move, the bound would keep the model from it."""
    x = data(2000)
    reports = []
    for transitions in (0, 12):
        frozen = Frozen(poor_posterior())
        model = GAUSSIANS.model()
        decoder = eqx.tree_at(lambda d: d.linear.bias, model.decoder, model.decoder.linear.bias - 1)
        start = eqx.tree_at(lambda m: m.decoder, model, decoder)
        method = Method(start, frozen, hmc_transitions=transitions)
        config = FitConfig(epochs=20, batch_size=100, learning_rate=1e-2, kl_warmup=0.0)
        result = avb.fit(method, x, config=config, key=key)
        linear = result.method.model.decoder.linear
        evidence = Gaussians(np.asarray(linear.weight), np.asarray(linear.bias)).log_evidence(x)
        reports.append((evidence.mean(), result.history[-1]))
    truth = GAUSSIANS.log_evidence(x).mean()
    assert reports[0][0] < truth - 0.3
    assert reports[1][0] == pytest.approx(truth, abs=0.02)
    assert "hmc_acceptance" not in reports[0][1]
    assert reports[1][1]["hmc_acceptance"] == pytest.approx(ACCEPTANCE, abs=0.1)
    assert reports[1][1]["hmc_step_size"] > 0


class Frozen(GaussianPosterior):
    """A posterior that is as it is."""

    def __init__(self, posterior: GaussianPosterior):
        for field in dataclasses.fields(posterior):
            setattr(self, field.name, getattr(posterior, field.name))

    def draw(self, features, key):
        return jax.lax.stop_gradient(super().draw(features, key))


def test_a_prior_is_fitted_to_the_posterior_of_the_model(monkeypatch, key):
    """And not to draws of a poor one."""
    monkeypatch.setattr(_prior, "STEPS", 400)
    x = data(2000, mean=1.0, scale=1.6)
    method = Method(GAUSSIANS.model(), poor_posterior(), hmc_transitions=40)
    told = []
    fitted = avb.fit_prior(method, x, key=key, progress=lambda *now: told.append(now))
    assert told[0] == (250, 4000)
    assert told[-1] == (4000, 4000)
    assert told == sorted(told)
    mean, covariance = aggregate(x)
    divergence = divergence_from_prior(mean, covariance)
    assert fitted.gain == pytest.approx(divergence, abs=3 * fitted.standard_error + 0.05)
    draws = fitted.method.model.prior.sample(key, (5000,))
    np.testing.assert_allclose(np.mean(draws, axis=0), mean, atol=0.15)
