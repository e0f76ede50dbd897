"""The pieces of the two toys against closed forms."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from experiments import _four_point as four_point, eight_schools_critic as schools
from experiments._seeds import train_seeds
from test_core_helpers import AffineDecoder, affine

from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal


def test_evidence_on_the_grid_is_that_of_a_linear_model():
    weight = np.array([[1.0, 0.2], [-0.5, 0.8], [0.0, 0.3], [0.7, -0.7]], np.float32)
    bias = np.array([0.1, -0.2, 0.0, 0.4], np.float32)
    decoder = AffineDecoder(affine(weight, bias))
    model = LatentVariableModel(standard_normal(2), decoder, FixedNormal(0.5), (4,))
    expected = scipy.stats.multivariate_normal.logpdf(
        four_point.DATA, bias, weight @ weight.T + 0.25 * np.eye(4)
    )
    found = four_point.log_evidence(model, jnp.asarray(four_point.DATA), points=300)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_exact_draws_of_the_schools_are_of_the_posterior():
    """Stein's identity: E[z_i ∂_i log p] = −1 and E[∂_i log p] = 0 under p alone."""
    model, y = schools.build_model(), jnp.asarray(schools.DATA[0])
    z = jnp.asarray(schools.exact_draws(20_000, 1), jnp.float32)
    slope = jax.jit(jax.vmap(jax.grad(lambda z: model.log_joint(y, z))))(z)
    for values, mean in ((z * slope, -1.0), (slope, 0.0)):
        values = np.asarray(values, np.float64)
        error = values.std(axis=0) / np.sqrt(len(values))
        assert np.all(np.abs(values.mean(axis=0) - mean) < 4.5 * error)
        assert np.all(error < 0.05)


def test_evidence_of_the_schools_is_that_of_draws_from_the_prior(key):
    model, y = schools.build_model(), jnp.asarray(schools.DATA[0])
    z = jax.random.normal(key, (100_000, schools.DIM))
    log_likelihood = np.asarray(jax.jit(jax.vmap(lambda z: model.log_likelihood(y, z)))(z))
    weights = np.exp(log_likelihood.astype(np.float64) - schools.log_evidence())
    error = weights.std() / np.sqrt(len(weights))
    assert error < 0.01
    assert abs(weights.mean() - 1.0) < 4 * error


def test_schools_are_the_same_with_the_other_sign(key):
    model, y = schools.build_model(), jnp.asarray(schools.DATA[0])
    z = jax.random.normal(key, (schools.DIM,))
    other = jnp.concatenate([z[:1], -z[1:]])
    np.testing.assert_allclose(model.log_joint(y, z), model.log_joint(y, other), rtol=1e-6)


@pytest.mark.parametrize("name", ["critic", "flow"])
def test_seeds_train_side_by_side(monkeypatch, name):
    monkeypatch.setattr(four_point, "DRAWS", 2)
    monkeypatch.setattr(four_point, "FLOW_LAYERS", 2)
    recipe = dataclasses.replace(four_point.RECIPES[name], steps=20)
    fit = recipe.fit_config(1.0)
    methods = train_seeds(recipe.make, four_point.DATA, fit, (3, 4, 4), traced=recipe.traced)
    first, second, again = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(m, eqx.is_array))])
        for m in methods
    )
    assert np.isfinite(first).all()
    assert np.array_equal(second, again)
    assert np.abs(first - second).max() > 0.1
