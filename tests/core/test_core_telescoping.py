"""A telescoping critic where one ratio is too large to be learnt, and T is known."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_core_helpers import DATA_DIM, AffineDecoder, affine, raw_of_scale

import avb
from avb import ConfigError, Method
from avb.contrasts import PriorContrast
from avb.critics import AbstractCritic, ResidualCritic, TelescopingCritic
from avb.evaluation._critic import critic_offset
from avb.evaluation._refit import refit_critic
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.objectives import AbstractObjective, DonskerVaradhan, Logistic, WeightedLogistic
from avb.posteriors import GaussianPosterior
from avb.training._contest import adversary_loss, contest, offset_of

DIM, SCALE = 16, 0.22
SLOPE = 0.5 * np.random.default_rng(0).normal(size=(DIM, DATA_DIM))
X = np.random.default_rng(1).normal(size=(32, DATA_DIM)).astype(np.float32)
MEANS = X @ SLOPE.T
STEPS, DRAWS = 800, 200


def narrow() -> GaussianPosterior:
    """q(z|x) = N(S x, s² I), about 20 nats from the prior."""
    posterior = GaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=DIM, key=jax.random.key(0)
    )
    bias = np.concatenate([np.zeros(DIM), raw_of_scale(np.full(DIM, SCALE))])
    head = affine(np.concatenate([SLOPE, np.zeros_like(SLOPE)]), bias)
    return eqx.tree_at(lambda p: p.head, posterior, head)


def blind() -> LatentVariableModel:
    """p(x|z) = N(0, I): the ELBO is log p(x) − KL(q‖p)."""
    decoder = AffineDecoder(affine(np.zeros((DATA_DIM, DIM)), np.zeros(DATA_DIM)))
    return LatentVariableModel(standard_normal(DIM), decoder, FixedNormal(1.0), (DATA_DIM,))


MODEL, POSTERIOR = blind(), narrow()


def method_of(critic: AbstractCritic, objective: AbstractObjective, draws: int = 1) -> Method:
    return Method(MODEL, POSTERIOR, PriorContrast(), critic, objective, contrast_draws=draws)


def exact_log_ratio(z: np.ndarray) -> np.ndarray:
    """log q(z|x) − log p(z), without the library; z of shape (n, s, d)."""
    white = (z - MEANS[:, None]) / SCALE
    return 0.5 * np.sum(z**2 - white**2, axis=-1) - DIM * np.log(SCALE)


def exact_divergence() -> float:
    each = 0.5 * np.sum(SCALE**2 + MEANS**2 - 1 - 2 * np.log(SCALE), axis=1)
    return float(each.mean())


class Errors(NamedTuple):
    """T − T* at draws of q, and the root mean square of both slopes' difference over T*'s."""

    bias: float
    scatter: float
    slope: float


@eqx.filter_jit
def at_draws(critic: AbstractCritic, key):
    def datum(x, key):
        seen = critic.features(x, x)
        z = POSTERIOR.sample(key, x, (DRAWS,))
        return z, *jax.vmap(jax.value_and_grad(lambda z: critic.evaluate(seen, z)))(z)

    return jax.vmap(datum)(jnp.asarray(X), jax.random.split(key, len(X)))


def errors_of(critic: AbstractCritic, key) -> Errors:
    z, value, slope = (np.asarray(part, np.float64) for part in at_draws(critic, key))
    error = value - exact_log_ratio(z)
    exact = z - (z - MEANS[:, None]) / SCALE**2
    square = np.mean(np.sum((slope - exact) ** 2, -1)) / np.mean(np.sum(exact**2, -1))
    return Errors(float(error.mean()), float(error.std()), float(np.sqrt(square)))


@pytest.fixture(scope="module")
def trained() -> dict[str, Method]:
    """One ratio and several, trained alike."""

    def fit(kind: type[ResidualCritic] | type[TelescopingCritic]) -> Method:
        critic = kind(DATA_DIM, DIM, width=32, depth=1, key=jax.random.key(1))
        method = method_of(critic, WeightedLogistic(), draws=4)
        return refit_critic(method, jnp.asarray(X), jax.random.key(2), STEPS)

    return {"one ratio": fit(ResidualCritic), "telescoping": fit(TelescopingCritic)}


def test_posterior_is_twenty_nats_from_the_contrast(key):
    sample = jax.jit(jax.vmap(lambda x, k: POSTERIOR.sample(k, x, (500,))))
    z = np.asarray(sample(jnp.asarray(X), jax.random.split(key, len(X))), np.float64)
    ratio = exact_log_ratio(z)
    assert exact_divergence() == pytest.approx(20.0, abs=1.0)
    assert ratio.mean() == pytest.approx(
        exact_divergence(), abs=4 * ratio.std() / np.sqrt(ratio.size)
    )


def test_telescoping_learns_what_one_ratio_does_not(trained, key):
    found = {name: errors_of(method.critic, key) for name, method in trained.items()}
    one, telescoping = found["one ratio"], found["telescoping"]
    # Where draws of q and r are told apart without fail, one ratio learns nothing more.
    assert one.bias < -4.0, found
    assert abs(telescoping.bias) < 0.25 * abs(one.bias), found
    assert telescoping.slope < 0.5 * one.slope, found


def test_evaluation_takes_the_sum_of_the_ratios(trained, key):
    method = trained["telescoping"]
    errors = errors_of(method.critic, key)
    log_evidence = -0.5 * np.mean(np.sum(X**2, axis=1)) - 0.5 * DATA_DIM * np.log(2 * np.pi)
    exact = log_evidence - exact_divergence()
    estimate = avb.critic_elbo(method, X, key=key, draws=DRAWS)
    noise = np.hypot(estimate.standard_error, errors.scatter / np.sqrt(DRAWS * len(X)))
    assert abs(estimate.mean - exact + errors.bias) < 4 * noise


def test_diagnosis_of_a_telescoping_critic(trained, key):
    method = trained["telescoping"]
    errors = errors_of(method.critic, key)
    found = avb.diagnose(method, X, key=key, steps=10, draws=64)
    assert found.reference == "exact density"
    assert abs(found.divergence.nats - exact_divergence()) < 4 * found.divergence.error
    noise = np.hypot(found.too_high.error, errors.scatter / np.sqrt(DRAWS * len(X)))
    assert abs(found.too_high.nats + errors.bias) < 4 * noise


def critic_of(slopes: np.ndarray, constants: np.ndarray, **settings) -> TelescopingCritic:
    """Ratios that are linear in the whitened vector."""
    critic = TelescopingCritic(DATA_DIM, DIM, width=4, depth=1, key=jax.random.key(0), **settings)
    weight = jnp.zeros(critic.output.weight.shape).at[:, -DIM:].set(jnp.asarray(slopes))
    bias = jnp.asarray(constants, jnp.float32)
    return eqx.tree_at(lambda c: (c.output.weight, c.output.bias), critic, (weight, bias))


def test_each_ratio_meets_draws_of_its_own_waymarks():
    rng = np.random.default_rng(1)
    slopes, constants = rng.normal(size=(3, DIM)), rng.normal(size=3)
    critic = critic_of(slopes, constants, waymarks=(0.6, 0.8))
    on_q, on_r = rng.normal(size=DIM), rng.normal(size=(5, DIM))
    seen = critic.features(jnp.zeros(DATA_DIM), jnp.zeros(DATA_DIM))
    above, below = critic.pairs(seen, jnp.asarray(on_q), jnp.asarray(on_r))
    # 0.6² + 0.8² = 1.
    first, second = 0.8 * on_r + 0.6 * on_q, 0.6 * on_r + 0.8 * on_q
    expected = [(first[0], on_r), (second[0], first), (on_q, second)]
    for index, (upper, lower) in enumerate(expected):
        np.testing.assert_allclose(
            above[index], upper @ slopes[index] + constants[index], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            below[index], lower @ slopes[index] + constants[index], rtol=1e-4, atol=1e-5
        )
    total = on_q @ slopes.sum(axis=0) + constants.sum()
    np.testing.assert_allclose(critic.evaluate(seen, jnp.asarray(on_q)), total, rtol=1e-4)


def losses(
    critic: AbstractCritic, objective: AbstractObjective, key
) -> tuple[jax.Array, jax.Array]:
    """The critic's loss and the offset of its sum, on one batch."""

    @eqx.filter_jit
    def both(critic):
        method, x = method_of(critic, objective), jnp.asarray(X)
        z = jax.vmap(POSTERIOR.draw)(x, jax.random.split(key, len(x)))
        met = contest(method, x, x, z, key)
        return adversary_loss(method, met)[1], offset_of(method, met.on_contrast)

    return both(critic)


def test_without_waymarks_it_is_the_residual_critic(key):
    sizes = {"width": 4, "depth": 1, "key": key}
    one = ResidualCritic(DATA_DIM, DIM, **sizes)
    same = TelescopingCritic(DATA_DIM, DIM, waymarks=(), **sizes)
    weight = jax.random.normal(key, one.output.weight.shape)
    one, same = (eqx.tree_at(lambda c: c.output.weight, c, weight) for c in (one, same))
    np.testing.assert_allclose(
        losses(same, Logistic(), key), losses(one, Logistic(), key), rtol=1e-5
    )


def test_every_ratio_leaves_a_constant_of_its_own(key):
    slopes, constants = np.zeros((4, DIM)), np.array([1.0, -0.5, 2.0, 0.25])
    critic, objective = critic_of(slopes, constants), DonskerVaradhan()
    loss, offset = losses(critic, objective, key)
    np.testing.assert_allclose((loss, offset), (0.0, constants.sum()), atol=1e-5)
    found = critic_offset(method_of(critic, objective), X, key=key, draws=4, batch_size=8)
    np.testing.assert_allclose(found, constants.sum(), rtol=1e-5)


@pytest.mark.parametrize("waymarks", [(0.0, 0.5), (0.5, 0.5), (0.5, 0.4), (0.5, 1.0), (0.5, 2.0)])
def test_waymarks_rise_from_the_contrast_to_the_posterior(waymarks):
    with pytest.raises(ConfigError) as caught:
        TelescopingCritic(DATA_DIM, DIM, waymarks=waymarks, key=jax.random.key(0))
    assert str(caught.value) == (
        "waymarks of the telescoping critic: expected rising numbers between 0 and 1, "
        f"got {waymarks}"
    )
