"""A learned mixture as contrast, on a posterior of two modes whose density is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from test_core_helpers import DATA_DIM, GAUSSIANS, LATENT_DIM, affine, raw_of_scale

from avb import ConfigError, Method
from avb.contrasts import AbstractContrast, GaussianContrast, MixtureContrast
from avb.critics import ResidualCritic
from avb.densities._full_mixture import FullMixture
from avb.objectives import Logistic
from avb.posteriors import AbstractPosterior, GaussianPosterior, MixturePosterior
from avb.training._contest import contest

MODEL = GAUSSIANS.model()
PLACE = {"data_shape": (DATA_DIM,), "latent_dim": LATENT_DIM}
WEIGHTS = np.array([0.3, 0.7])
LOCS = np.array([[-1.5, 0.0], [1.5, 0.5]])
SCALES = np.array([[0.5, 0.8], [0.6, 0.4]])
LOWER = np.array([0.5, -1.0])
SLOPE = np.array([[0.5, 0.0, 0.2], [0.0, -0.5, 0.0]])


def bimodal() -> MixturePosterior:
    """q(z|x) = Σ_k w_k N(m_k + S x, Σ_k)."""
    bias = np.stack(
        [
            np.concatenate([[np.log(weight)], loc, raw_of_scale(scale), [lower]])
            for weight, loc, scale, lower in zip(WEIGHTS, LOCS, SCALES, LOWER, strict=True)
        ]
    )
    slope = np.zeros((*bias.shape, DATA_DIM))
    slope[:, 1 : 1 + LATENT_DIM] = SLOPE
    posterior = MixturePosterior(jnp.ravel, components=2, key=jax.random.key(0), **PLACE)
    head = affine(slope.reshape(-1, DATA_DIM), bias.reshape(-1))
    return eqx.tree_at(lambda p: p.head, posterior, head)


def exact_log_prob(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log q(z|x), without the library."""
    total = 0.0
    for weight, loc, scale, lower in zip(WEIGHTS, LOCS, SCALES, LOWER, strict=True):
        whitening = np.array([[1.0, 0.0], [lower, 1.0]]) / scale[:, None]
        covariance = np.linalg.inv(whitening.T @ whitening)
        normal = scipy.stats.multivariate_normal(loc + SLOPE @ x, covariance)
        total = total + weight * normal.pdf(z)
    return np.log(total)


POSTERIOR = bimodal()


def density_of(contrast: AbstractContrast, x, posterior: AbstractPosterior = POSTERIOR):
    features = posterior.encoder(jnp.asarray(x, jnp.float32))
    return contrast.condition(posterior, MODEL.fixed_prior, features, jax.random.key(0))


@eqx.filter_jit
def fitted(contrast: AbstractContrast, key, steps: int = 1000) -> AbstractContrast:
    """A contrast fitted the way that training does it, to draws of q for new data."""
    parameters, static = eqx.partition(contrast, eqx.is_inexact_array)
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    critic = ResidualCritic(DATA_DIM, LATENT_DIM, width=2, depth=1, key=jax.random.key(0))

    def loss(parameters, key):
        keys = jax.random.split(key, 3)
        method = Method(MODEL, POSTERIOR, eqx.combine(parameters, static), critic, Logistic())
        x = jax.random.normal(keys[0], (256, DATA_DIM))
        z = jax.vmap(POSTERIOR.draw)(x, jax.random.split(keys[1], len(x)))
        return contest(method, x, x, z, keys[2]).fit_loss

    def step(carry, key):
        parameters, state = carry
        updates, state = optimiser.update(jax.grad(loss)(parameters, key), state)
        return (optax.apply_updates(parameters, updates), state), None

    carry = (parameters, optimiser.init(parameters))
    (parameters, _), _ = jax.lax.scan(step, carry, jax.random.split(key, steps))
    return eqx.combine(parameters, static)


def divergence(contrast: AbstractContrast, key) -> tuple[float, float]:
    """KL(q‖r) over new data, and its standard error."""

    @eqx.filter_jit
    def draws(contrast, x, key):
        z = jax.vmap(lambda x, key: POSTERIOR.sample(key, x, (100,)))(x, key)
        log_r = jax.vmap(lambda x, z: jax.vmap(density_of(contrast, x).log_prob)(z))(x, z)
        return z, log_r

    x = jax.random.normal(jax.random.fold_in(key, 1), (100, DATA_DIM))
    z, log_r = draws(contrast, x, jax.random.split(key, len(x)))
    log_q = np.stack([exact_log_prob(*pair) for pair in zip(np.asarray(x), z, strict=True)])
    values = (log_q - np.asarray(log_r, np.float64)).ravel()
    return float(values.mean()), float(values.std() / np.sqrt(values.size))


def test_known_density_is_that_of_the_posterior(key):
    x = np.array([0.4, -1.0, 2.0])
    z = np.asarray(POSTERIOR.sample(key, jnp.asarray(x, jnp.float32), (50,)), np.float64)
    log_prob = jax.jit(jax.vmap(lambda z: POSTERIOR.log_prob(jnp.asarray(x, jnp.float32), z)))
    found = log_prob(jnp.asarray(z))
    np.testing.assert_allclose(found, exact_log_prob(x, z), rtol=1e-4, atol=1e-4)


def test_divergence_from_two_modes_falls_to_nothing(key):
    start = MixtureContrast(DATA_DIM, LATENT_DIM, width=16, key=key)
    contrast = fitted(start, key)
    before, _ = divergence(start, key)
    after, error = divergence(contrast, key)
    assert before > 0.3
    assert -3 * error < after < 0.02 - 3 * error
    density = density_of(contrast, np.zeros(DATA_DIM))
    assert isinstance(density, FullMixture)
    weights, left = np.exp(density.log_weights), np.asarray(density.loc[:, 0]) < 0
    assert weights[left].sum() == pytest.approx(WEIGHTS[0], abs=0.05)


def test_a_gaussian_leaves_the_two_modes_to_the_critic(key):
    contrast = fitted(GaussianContrast(DATA_DIM, LATENT_DIM, width=16, key=key), key)
    after, error = divergence(contrast, key)
    assert after - 3 * error > 0.3


def test_start_is_the_frame_but_for_the_components_that_are_apart(key):
    contrast = MixtureContrast(DATA_DIM, LATENT_DIM, components=16, width=8, key=key)
    x = np.array([0.4, -1.0, 2.0])
    density, frame = density_of(contrast, x), POSTERIOR.frame(jnp.asarray(x, jnp.float32))
    gaps = np.linalg.norm(np.asarray(density.loc[:, None] - density.loc[None]), axis=-1)
    assert gaps[~np.eye(16, dtype=bool)].min() > 1e-3
    moments = density.moments()
    np.testing.assert_allclose(moments.loc, frame.loc, atol=1e-5)
    # Locations of variance ¼, of which 16 are drawn, in components of variance ¾.
    share = np.diag(moments.scale_tril @ moments.scale_tril.T) / np.exp(2 * frame.log_scale)
    np.testing.assert_allclose(share, 1.0, atol=4 * 0.25 * np.sqrt(2 / 15))


def test_contrast_moves_with_the_frame(key):
    contrast = MixtureContrast(DATA_DIM, LATENT_DIM, width=8, key=key)
    posterior = GaussianPosterior(jnp.ravel, key=key, **PLACE)
    x = jnp.asarray([0.4, -1.0, 2.0])
    shift = jnp.asarray([3.0, -2.0, 1.5, -1.0])
    moved = eqx.tree_at(lambda p: p.head.bias, posterior, replace_fn=lambda bias: bias + shift)
    inner = jax.random.normal(key, (20, LATENT_DIM))

    def inside(posterior) -> jax.Array:
        frame = posterior.frame(x)
        z = frame.loc[None] + jnp.exp(frame.log_scale)[None] * inner
        density = density_of(contrast, x, posterior)
        return jax.vmap(density.log_prob)(z) + jnp.sum(frame.log_scale)

    np.testing.assert_allclose(inside(moved), inside(posterior), rtol=1e-4, atol=1e-4)


def test_draws_are_white_in_the_coordinates_of_the_mixture(key):
    head = MixtureContrast(DATA_DIM, LATENT_DIM, width=8, key=key)
    bias = jax.random.normal(key, head.head.layers[-1].bias.shape)
    contrast = eqx.tree_at(lambda c: c.head.layers[-1].bias, head, bias)
    density, count = density_of(contrast, np.ones(DATA_DIM)), 40_000
    assert isinstance(density, FullMixture)
    draws = jax.vmap(density.sample)(jax.random.split(key, count))
    white = np.asarray(jax.vmap(density.whiten)(draws))
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=4 / np.sqrt(count))
    # Of a white coordinate with a kurtosis of up to 6 the variance errs by √(5 / n).
    np.testing.assert_allclose(np.cov(white.T), np.eye(LATENT_DIM), atol=4 * np.sqrt(5 / count))


def test_the_key_places_the_components(key):
    first, again, other = (
        MixtureContrast(DATA_DIM, LATENT_DIM, width=8, key=k) for k in (key, key, jax.random.key(9))
    )
    assert eqx.tree_equal(first, again)
    assert not np.allclose(first.head.layers[-1].bias, other.head.layers[-1].bias)


def test_a_mixture_of_none_is_refused(key):
    with pytest.raises(
        ConfigError, match=r"^components of the mixture contrast: expected at least 1, got 0$"
    ):
        MixtureContrast(DATA_DIM, LATENT_DIM, components=0, key=key)
