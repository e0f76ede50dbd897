"""A posterior on a thin shell, which has the moments of a Gaussian a nat away from it.

Its encoder gives many features besides, as those of images do: critics whose blocks see only them
and z learn nothing of the shell in 8,000 steps.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb
from avb._types import Datum, Features, Key, Latent
from avb.densities import DiagonalGaussian
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.posteriors import AbstractPosterior

DIM = 3
THICKNESS = 0.1
X = np.random.default_rng(0).normal(size=(256, DIM)).astype(np.float32)
WEIGHTS = np.random.default_rng(3).normal(scale=3.0, size=(300, DIM)).astype(np.float32)


def encoder(x: Datum) -> Features:
    """The datum itself, and 300 features of it."""
    return jnp.concatenate([x, jax.nn.relu(jnp.asarray(WEIGHTS) @ x)])


class Shell(AbstractPosterior):
    """z = x + (1 + 0.1 ε₀) ε / |ε|."""

    encoder: Callable
    latent_dim: int = eqx.field(static=True, default=DIM)

    def draw(self, features: Features, key: Key) -> Latent:
        noise = jax.random.normal(key, (DIM + 1,))
        direction = noise[1:] / jnp.linalg.norm(noise[1:])
        return features[:DIM] + (1.0 + THICKNESS * noise[0]) * direction

    def frame(self, features: Features) -> DiagonalGaussian:
        return DiagonalGaussian(features[:DIM], jnp.zeros(DIM))


MODEL = LatentVariableModel(standard_normal(DIM), lambda z: z[None, :], FixedNormal(1.0), (DIM,))


def negative_entropy() -> float:
    """E[log q]: of the radius, which is nowhere near 0, less the sphere's log area."""
    radius = 1.0 + THICKNESS * np.random.default_rng(1).normal(size=100_000)
    line = -0.5 * np.log(2.0 * np.pi * np.e * THICKNESS**2)
    return float(line - np.mean(np.log(4.0 * np.pi * radius**2)))


def exact_elbo() -> float:
    """Mean over X: E|z|² = |x|² + E ρ², E|z − x|² = E ρ²."""
    spread = 1.0 + THICKNESS**2
    squares = np.sum(X**2, axis=1) + 2.0 * spread
    return float(np.mean(-0.5 * squares - DIM * np.log(2.0 * np.pi)) - negative_entropy())


@pytest.fixture(scope="module")
def fresh() -> avb.FreshCritics:
    settings = {"critics": 1, "steps": 300, "draws": 64}
    return avb.fresh_critic_elbo(MODEL, Shell(encoder), X, key=jax.random.key(0), **settings)


def test_a_gaussian_with_its_moments_is_a_nat_away():
    variance = (1.0 + THICKNESS**2) / DIM
    gaussian = -0.5 * DIM * np.log(2.0 * np.pi * np.e * variance)
    assert negative_entropy() - gaussian == pytest.approx(0.99, abs=0.01)


def test_fresh_critics_find_nine_tenths_of_that(fresh):
    above = fresh.upper.mean - exact_elbo()
    assert -3 * fresh.upper.standard_error < above < 0.1 + 3 * fresh.upper.standard_error
