"""The posteriors of known shape: their densities integrate to 1 and belong to their samplers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments._known_tables import entries
from experiments._shapes import DATA, SHAPES, ShapePosterior

DRAWS = 50_000


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[np.ndarray, ...]]:
    """Of each shape in three dimensions: importance weights, draws and both kinds of score."""

    @eqx.filter_jit
    def measure(posterior: ShapePosterior):
        density = posterior.density(jnp.eye(DATA)[1])
        u = 2.0 * jax.random.t(jax.random.key(0), 3.0, (DRAWS, 3))
        proposal = jnp.sum(jax.scipy.stats.t.logpdf(u / 2.0, 3.0) - jnp.log(2.0), axis=1)
        z = density.loc[None, :] + u @ density.matrix.T
        weights = jnp.exp(jax.vmap(density.log_prob)(z) + density.log_det - proposal)
        keys = jax.random.split(jax.random.key(1), DRAWS)
        z, conditional = jax.vmap(density.draw_and_conditional_score)(keys)
        score = jax.vmap(jax.grad(density.log_prob))(z)
        turned = (values @ density.matrix for values in (score, conditional))
        return weights, jax.vmap(density.whiten)(z), *turned

    found = {}
    for number, shape in enumerate(SHAPES):
        arrays = measure(ShapePosterior(number, 3))
        found[shape.name] = tuple(np.asarray(array, np.float64) for array in arrays)
    return found


def within(values: np.ndarray, expected: float | np.ndarray) -> bool:
    """Whether the mean over draws is within five standard errors of what it should be."""
    error = values.std(axis=0) / np.sqrt(len(values))
    return bool(np.all(np.abs(values.mean(axis=0) - expected) <= 5.0 * error + 1e-4))


@pytest.mark.parametrize("name", [shape.name for shape in SHAPES])
def test_density_integrates_to_one(measured, name):
    assert within(measured[name][0], 1.0)


@pytest.mark.parametrize("name", [shape.name for shape in SHAPES])
def test_draws_fulfil_the_identity_of_stein(measured, name):
    _, u, score, conditional = measured[name]
    # E[score hᵀ + ∇h] = 0 of bounded fields h = sin(u), which no tail decides.
    for field in (score, conditional):
        outer = field[:, :, None] * np.sin(u)[:, None, :]
        assert within(outer + np.cos(u)[:, :, None] * np.eye(3)[None], 0.0)


def test_what_is_not_finite_counts_as_failed():
    cell = {
        "absolute": [[0.1, 0.2, 0.3, None, 0.65, 0.55, 0.5]],
        "bias": [[0.0] * 7],
        "score": [[0.1] * 7],
        "divergence": [0.4],
    }
    found = entries({"residual | 2 | prior | ring": cell, "score | 2 | Stein | ring": {}})
    assert [entry.failed for entry in found] == [False, False, False, True, True, False, False]
