"""Fresh critics of a posterior on a thin shell, a nat away from the Gaussian with its moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.shell import DIM, THICKNESS, Shell, missed, problem

import avb
from avb.evaluation._fresh_training import prepare
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal

MODEL = LatentVariableModel(standard_normal(DIM), lambda z: z[None, :], FixedNormal(1.0), (DIM,))
SPREAD = 1.0 + THICKNESS**2


def negative_entropy() -> float:
    """E[log q]: of the radius, which is nowhere near 0, less the sphere's log area."""
    radius = 1.0 + THICKNESS * np.random.default_rng(1).normal(size=100_000)
    line = -0.5 * np.log(2.0 * np.pi * np.e * THICKNESS**2)
    return float(line - np.mean(np.log(4.0 * np.pi * radius**2)))


def exact_elbo(data: np.ndarray) -> float:
    """Mean over data: E|z|² = |x|² + E ρ², E|z − x|² = E ρ²."""
    squares = np.sum(data**2, axis=1) + 2.0 * SPREAD
    return float(np.mean(-0.5 * squares - DIM * np.log(2.0 * np.pi)) - negative_entropy())


@pytest.fixture(scope="module")
def shell() -> tuple[Shell, np.ndarray]:
    return problem(300)


def test_its_log_density_is_a_nat_above_that_of_the_gaussian_with_its_moments(shell):
    posterior, data = shell
    features = posterior.encoder(jnp.asarray(data[0]))
    z = jax.vmap(posterior.draw, in_axes=(None, 0))(
        features, jax.random.split(jax.random.key(0), 4000)
    )
    log_q = jnp.mean(jax.vmap(posterior.log_q, in_axes=(None, 0))(features, z))
    assert float(log_q) == pytest.approx(negative_entropy(), abs=0.05)
    gaussian = -0.5 * DIM * np.log(2.0 * np.pi * np.e * SPREAD / DIM)
    assert negative_entropy() - gaussian == pytest.approx(0.99, abs=0.01)


def test_fresh_critics_find_nine_tenths_of_that_among_many_features(shell):
    posterior, data = shell
    settings = {"critics": 1, "steps": 300, "draws": 64}
    fresh = avb.fresh_critic_elbo(MODEL, posterior, data, key=jax.random.key(0), **settings)
    above = fresh.upper.mean - exact_elbo(data)
    assert -3 * fresh.upper.standard_error < above < 0.1 + 3 * fresh.upper.standard_error


@pytest.mark.parametrize(("quadratic", "divided"), [(True, False), (False, True)])
def test_either_of_their_quadratic_forms_and_divided_features_would_do(shell, quadratic, divided):
    arena = prepare(*shell, key=jax.random.key(1), batch_size=64)
    key = jax.random.key(2)
    assert missed(arena, quadratic=quadratic, divided=divided, steps=200, key=key) < 0.15
