"""Evaluation and gradients on a linear-Gaussian model, where everything is known exactly."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_core_helpers import (
    DATA_DIM,
    GAUSSIANS,
    LATENT_DIM,
    data,
    exact_posterior,
    known_mixture,
    known_mixture_loc,
)

import avb
from avb import Method
from avb.contrasts import AbstractContrast, GaussianContrast, SelfContrast
from avb.critics import ResidualCritic
from avb.objectives import DonskerVaradhan, Logistic
from avb.posteriors import GaussianPosterior
from avb.training import total_loss

X = data()
DRAWS = 5
LOG_EVIDENCE = GAUSSIANS.log_evidence(X)


def gaussian_posterior() -> GaussianPosterior:
    """A diagonal Gaussian that is not the true posterior."""
    return GaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, key=jax.random.key(4)
    )


def test_closed_forms_agree():
    gain, offset, covariance = GAUSSIANS.posterior_map()
    exact = GAUSSIANS.elbo(X, X @ gain.T + offset, covariance)
    np.testing.assert_allclose(exact, LOG_EVIDENCE, rtol=1e-6)


def test_elbo_of_the_exact_posterior_is_the_evidence_without_variance(key):
    estimate = avb.elbo(GAUSSIANS.model(), exact_posterior(), X, key=key, draws=8)
    np.testing.assert_allclose(estimate.values, LOG_EVIDENCE, atol=2e-4)
    np.testing.assert_allclose(estimate.errors, 0.0, atol=1e-4)
    assert (estimate.quantity, estimate.kind) == ("ELBO", "exact")


def test_elbo_of_another_posterior(key):
    posterior = gaussian_posterior()
    estimate = avb.elbo(GAUSSIANS.model(), posterior, X, key=key, draws=4000)
    density = jax.vmap(lambda x: posterior.density(posterior.encoder(x)))(jnp.asarray(X))
    expected = [
        GAUSSIANS.elbo(x[None], np.asarray(loc)[None], np.diag(np.exp(2.0 * np.asarray(log))))[0]
        for x, loc, log in zip(X, density.loc, density.log_scale, strict=True)
    ]
    assert np.all(np.abs(estimate.values - expected) < 5 * estimate.errors)
    assert np.all(estimate.errors < 0.03 * np.abs(expected))


@pytest.mark.parametrize("samples", [60, 2000])
def test_importance_bound_is_just_below_the_evidence(samples, key):
    model, posterior = GAUSSIANS.model(), exact_posterior()
    estimate = avb.importance_bound(model, posterior, X, key=key, samples=samples)
    # Its bias is half the relative variance of the mean weight.
    bias = 0.5 * estimate.errors**2
    gap = LOG_EVIDENCE - estimate.values
    assert np.all(np.abs(gap - bias) < 4 * estimate.errors + 1e-4)
    assert estimate.effective is not None
    assert np.all(estimate.effective > 0.5 * samples)
    assert np.all(estimate.effective <= samples + 1e-2)
    assert (estimate.quantity, estimate.kind) == ("log p(x)", "lower bound")


def test_importance_bound_of_a_poor_proposal_is_a_lower_bound_on_average(key):
    model, posterior = GAUSSIANS.model(), gaussian_posterior()

    def bound(samples: int) -> float:
        many = [
            avb.importance_bound(model, posterior, X, key=k, samples=samples).mean
            for k in jax.random.split(key, 30)
        ]
        return float(np.mean(many))

    few, more = bound(4), bound(200)
    assert few < more < LOG_EVIDENCE.mean() + 0.01


@pytest.fixture(scope="module")
def brackets() -> dict[int, tuple[avb.Estimate, avb.Estimate]]:
    posterior, _ = known_mixture()
    return {
        components: avb.elbo_bracket(
            GAUSSIANS.model(),
            posterior,
            X,
            key=jax.random.key(3),
            draws=1500,
            components=components,
        )
        for components in (1, 16, 512)
    }


def test_bracket_contains_the_exact_elbo(brackets):
    _, covariance = known_mixture()
    exact = GAUSSIANS.elbo(X, known_mixture_loc(X), covariance)
    for lower, upper in brackets.values():
        assert np.all(lower.values - 4 * lower.errors < exact)
        assert np.all(exact < upper.values + 4 * upper.errors)
        assert (lower.kind, upper.kind) == ("lower bound", "upper bound")


def test_bracket_narrows_to_the_exact_elbo(brackets):
    _, covariance = known_mixture()
    exact = GAUSSIANS.elbo(X, known_mixture_loc(X), covariance).mean()
    widths = [upper.mean - lower.mean for lower, upper in brackets.values()]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03
    for index in (0, 1):
        last = brackets[512][index]
        assert abs(last.mean - exact) < 4 * last.standard_error + widths[-1]


def test_draws_of_the_known_mixture_have_its_moments(key):
    posterior, covariance = known_mixture()
    count = 40_000
    draws = eqx.filter_jit(lambda: posterior.sample(key, jnp.asarray(X[0]), (count,)))()
    np.testing.assert_allclose(
        np.mean(draws, axis=0), known_mixture_loc(X[:1])[0], atol=5 / np.sqrt(count)
    )
    np.testing.assert_allclose(np.cov(np.asarray(draws).T), covariance, atol=8 / np.sqrt(count))


def test_bracket_does_not_depend_on_how_components_are_cut(key, monkeypatch):
    posterior, _ = known_mixture()
    features, z = jnp.asarray(X[0]), jax.random.normal(key, (5, LATENT_DIM))
    own = jax.random.normal(key, (5, posterior.noise_dim))
    monkeypatch.setattr(avb.evaluation._mixture_bounds, "COMPONENTS_AT_ONCE", 7)

    def conditionals(key, count):
        return posterior.components(features, jax.random.normal(key, (count, posterior.noise_dim)))

    bounds = eqx.filter_jit(avb.evaluation._mixture_bounds.log_mixture_bounds)
    own_components = posterior.components(features, own)
    without, with_own = bounds(conditionals, own_components, z, key, 17)
    # The same noise, drawn as there, in one mixture.
    parts = [
        jax.random.normal(jax.random.fold_in(key, chunk), (7, posterior.noise_dim))[:count]
        for chunk, count in enumerate((7, 7, 3))
    ]
    mixture = avb.contrasts._self.mixture
    fresh = jnp.concatenate(parts)
    expected = jax.vmap(mixture(posterior, features, fresh).log_prob)(z)
    np.testing.assert_allclose(without, expected, rtol=1e-5)
    expected = [
        mixture(posterior, features, jnp.concatenate([e[None], fresh])).log_prob(at)
        for e, at in zip(own, z, strict=True)
    ]
    np.testing.assert_allclose(with_own, expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_values_do_not_depend_on_the_batch_size(batch_size, key):
    model, posterior = GAUSSIANS.model(), gaussian_posterior()
    told = []
    estimate = avb.elbo(
        model,
        posterior,
        X,
        key=key,
        draws=3,
        batch_size=batch_size,
        progress=lambda done, total: told.append((done, total)),
    )
    expected = avb.elbo(model, posterior, X, key=key, draws=3, batch_size=2)
    np.testing.assert_allclose(estimate.values, expected.values, rtol=1e-5)
    assert told[-1] == (len(X), len(X))


def test_critic_elbo_of_a_critic_that_is_right(key):
    """Over a contrast that is q itself, T = 0 is right; so is any constant after the offset."""
    posterior = gaussian_posterior()
    contrast = GaussianContrast(DATA_DIM, LATENT_DIM, covariance="diagonal", width=4, key=key)
    critic = ResidualCritic(DATA_DIM, LATENT_DIM, width=4, key=key)
    expected = avb.elbo(GAUSSIANS.model(), posterior, X, key=key, draws=4000)
    for objective, constant in ((Logistic(), 0.0), (DonskerVaradhan(), 3.0)):
        shifted = eqx.tree_at(lambda c: c.output.bias, critic, jnp.asarray(constant))
        method = Method(GAUSSIANS.model(), posterior, contrast, shifted, objective)
        estimate = avb.critic_elbo(method, X, key=key, draws=4000)
        # The learned contrast starts a touch narrower than the frame, hence the last term.
        error = 5 * np.hypot(estimate.standard_error, expected.standard_error) + 0.01
        assert abs(estimate.mean - expected.mean) < error
        assert estimate.kind == "critic estimate, not a bound"


def per_key_gradients(method: Method, loss, key, count: int, part: str = "posterior"):
    """Gradients in a part's parameters, by default the posterior's, one row a key."""

    def flat(key):
        gradient = eqx.filter_grad(lambda method: loss(method, key))(method)
        leaves = jax.tree.leaves(eqx.filter(getattr(gradient, part), eqx.is_inexact_array))
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    return np.asarray(eqx.filter_jit(jax.vmap(flat))(jax.random.split(key, count)), np.float64)


def library_loss(method, key):
    return total_loss(method, jnp.asarray(X), key, jnp.ones(()))[0]


def full_exact_loss(method, key):
    """Minus the ELBO, differentiated through z and through the density alike."""
    posterior, model = method.posterior, method.model

    def datum(x, key):
        density = posterior.density(posterior.encoder(x))
        z = density.sample(key)
        return density.log_prob(z) - model.log_joint(x, z)

    return jnp.mean(jax.vmap(datum)(jnp.asarray(X), jax.random.split(key, len(X))))


def full_semi_implicit_loss(method, key):
    """Minus the mixture bound of Yin & Zhou, differentiated through all of it."""
    posterior, model = method.posterior, method.model

    def datum(x, key):
        key_noise, key_z = jax.random.split(key)
        own, noise, held = method.contrast.noise(key_noise, posterior.noise_dim, (1,))
        noise = noise if held else jnp.concatenate([own, noise])
        features = posterior.encoder(x)
        z = posterior.conditional(features, own[0]).sample(key_z)
        components = posterior.components(features, noise)
        log_probs = jax.vmap(lambda density: density.log_prob(z))(components)
        log_mixture = jax.nn.logsumexp(log_probs) - jnp.log(float(len(noise)))
        return log_mixture - model.log_joint(x, z)

    return jnp.mean(jax.vmap(datum)(jnp.asarray(X), jax.random.split(key, len(X))))


def assert_same_means(first: np.ndarray, second: np.ndarray) -> None:
    error = np.sqrt(first.var(axis=0) / len(first) + second.var(axis=0) / len(second))
    difference = np.abs(first.mean(axis=0) - second.mean(axis=0))
    assert np.all(difference < 5 * error + 1e-6)
    # The comparison says something only where the errors are small beside the gradient.
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(second.mean(axis=0))


def test_sticking_the_landing_is_unbiased_for_an_exact_density(key):
    method = Method(GAUSSIANS.model(), gaussian_posterior())
    keys = jax.random.split(key)
    landed = per_key_gradients(method, library_loss, keys[0], 4000)
    assert_same_means(landed, per_key_gradients(method, full_exact_loss, keys[1], 4000))


class ExactContrast(AbstractContrast):
    """q itself, so that T = 0 is right."""

    is_learned: ClassVar[bool] = False

    def condition(self, posterior, prior, features, key):
        return posterior.density(features)


def weighted(kind: str, gradient_draws: int | None = None) -> Method:
    """A method of five weighted draws, q's density its own or by a critic that is right."""
    model, posterior = GAUSSIANS.model(), gaussian_posterior()
    adversary = ()
    if kind == "critic":
        critic = ResidualCritic(DATA_DIM, LATENT_DIM, width=4, key=jax.random.key(0))
        adversary = (ExactContrast(), critic, Logistic())
    draws = {"importance_samples": DRAWS, "gradient_draws": gradient_draws}
    return Method(model, posterior, *adversary, **draws)


def full_weighted_loss(method, key, beta=1.0):
    """Minus the bound of Burda et al., differentiated through z and through the density alike."""
    posterior, model = method.posterior, method.model

    def datum(x, key):
        density = posterior.density(posterior.encoder(x))
        z = jax.vmap(density.sample)(jax.random.split(key, DRAWS))
        divergence = jax.vmap(density.log_prob)(z) - jax.vmap(model.log_prior)(z)
        log_likelihood = jax.vmap(model.log_likelihood, in_axes=(None, 0))(x, z)
        return jnp.log(DRAWS) - jax.nn.logsumexp(log_likelihood - beta * divergence)

    return jnp.mean(jax.vmap(datum)(jnp.asarray(X), jax.random.split(key, len(X))))


@pytest.mark.parametrize("part", ["posterior", "model"])
@pytest.mark.parametrize(
    ("kind", "gradient_draws"), [("density", None), ("density", 2), ("critic", None), ("critic", 1)]
)
def test_gradient_of_the_weighted_bound(kind, gradient_draws, part, key):
    method, keys = weighted(kind, gradient_draws), jax.random.split(key)
    found = per_key_gradients(method, library_loss, keys[0], 4000, part)
    assert_same_means(found, per_key_gradients(method, full_weighted_loss, keys[1], 4000, part))


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["density", "critic"])
def test_value_of_the_weighted_bound(kind, beta, key):
    method, keys = weighted(kind), jax.random.split(key, (2, 4000))
    losses = jax.jit(jax.vmap(lambda key: total_loss(method, jnp.asarray(X), key, beta)))
    loss, terms = losses(keys[0])
    found = loss - terms.critic_loss
    expected = jax.jit(jax.vmap(lambda key: full_weighted_loss(method, key, beta)))(keys[1])
    error = np.sqrt((np.var(found) + np.var(expected)) / 4000)
    assert abs(np.mean(found) - np.mean(expected)) < 5 * error
    assert np.mean(-found) > np.mean(terms.elbo) + 10 * error


@pytest.mark.parametrize("even", [False, True])
def test_sticking_the_landing_is_unbiased_for_the_self_contrast(even, key):
    posterior, _ = known_mixture()
    # Off the optimum, so that there is a gradient to compare.
    posterior = eqx.tree_at(lambda p: p.head.bias, posterior, posterior.head.bias + 0.5)
    method = Method(GAUSSIANS.model(), posterior, SelfContrast(4, even=even))
    keys = jax.random.split(key)
    landed = per_key_gradients(method, library_loss, keys[0], 10_000)
    assert_same_means(landed, per_key_gradients(method, full_semi_implicit_loss, keys[1], 10_000))


def test_even_points_waste_less_of_a_lower_bound(key):
    posterior, covariance = known_mixture()
    exact = GAUSSIANS.elbo(X, known_mixture_loc(X), covariance).mean()

    def bound(contrast: SelfContrast) -> tuple[float, float]:
        method = Method(GAUSSIANS.model(), posterior, contrast, posterior_draws=4)
        one = lambda key: total_loss(method, jnp.asarray(X), key, jnp.ones(()))[1].elbo  # noqa: E731
        values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, 4000)), np.float64)
        return values.mean(), values.std() / np.sqrt(len(values))

    independent, error = bound(SelfContrast(16))
    even, even_error = bound(SelfContrast(16, even=True))
    assert even < exact + 4 * even_error
    assert exact - even + 4 * np.hypot(error, even_error) < exact - independent


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior(key):
    method = Method(GAUSSIANS.model(), exact_posterior())
    landed = per_key_gradients(method, library_loss, key, 50)
    full = per_key_gradients(method, full_exact_loss, key, 50)
    np.testing.assert_allclose(landed, 0.0, atol=1e-3)
    assert np.abs(full).max() > 0.1


def test_standard_error_of_the_mean():
    estimate = avb.Estimate(
        "ELBO", "exact", "Monte Carlo", np.array([1.0, 3.0]), np.array([0.3, 0.4]), ""
    )
    np.testing.assert_allclose(estimate.mean, 2.0)
    np.testing.assert_allclose(estimate.standard_error, 0.25)
