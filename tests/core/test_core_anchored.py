"""Moments at fixed noise: exact where the posterior is linear, the same for every key."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb import ConfigError
from avb.contrasts import AnchoredMomentContrast
from avb.contrasts._anchored import balanced_anchors
from avb.densities import FullGaussian
from avb.densities._scale import bounded_shift
from avb.posteriors import BasisPosterior, GaussianPosterior, ImplicitPosterior

D = 3
PLACE = {"data_shape": (4,), "latent_dim": D}
FEATURES = jnp.asarray([0.5, -1.0, 2.0, 0.1])


def implicit(*, bend: float) -> ImplicitPosterior:
    posterior = ImplicitPosterior(jnp.ravel, width=16, key=jax.random.key(0), **PLACE)
    return eqx.tree_at(
        lambda p: p.network.layers[-1].weight,
        posterior,
        replace_fn=lambda weight: bend * jax.random.normal(jax.random.key(1), weight.shape),
    )


def contrast_of(posterior, contrast: AnchoredMomentContrast, seed: int = 0) -> FullGaussian:
    return contrast.condition(posterior, None, FEATURES, jax.random.key(seed))  # pyright: ignore


def covariance(density: FullGaussian) -> np.ndarray:
    return np.asarray(density.scale_tril @ density.scale_tril.T)


@pytest.mark.parametrize(("size", "count"), [(1, 2), (6, 12), (16, 64)])
def test_anchors_are_balanced(size, count):
    anchors = np.asarray(balanced_anchors(size, count, seed=0), np.float64)
    assert anchors.shape == (count, size)
    np.testing.assert_allclose(anchors.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(anchors.T @ anchors / count, np.eye(size), atol=1e-5)


def test_moments_of_a_linear_posterior_are_exact():
    posterior = implicit(bend=0.0)
    frame = posterior.frame(FEATURES)
    found = contrast_of(posterior, AnchoredMomentContrast(posterior.noise_size))
    np.testing.assert_allclose(found.loc, frame.loc, atol=1e-5)
    expected = np.diag(np.exp(2.0 * np.asarray(frame.log_scale)))
    np.testing.assert_allclose(covariance(found), expected, atol=3e-4 * expected.max())


def test_moments_of_a_bent_posterior_are_near():
    posterior = implicit(bend=0.3)
    found = contrast_of(posterior, AnchoredMomentContrast(posterior.noise_size, num_anchors=1024))
    keys = jax.random.split(jax.random.key(2), 40_000)
    draws = np.asarray(jax.vmap(posterior.draw, in_axes=(None, 0))(FEATURES, keys), np.float64)
    white = np.linalg.solve(np.asarray(found.scale_tril), (draws - np.asarray(found.loc)).T)
    np.testing.assert_allclose(white.mean(axis=1), 0.0, atol=3 / np.sqrt(1024))
    np.testing.assert_allclose(np.cov(white), np.eye(D), atol=3 * np.sqrt(2 / 1024))


def test_shared_first_layer_is_the_network_of_features_and_noise():
    posterior = implicit(bend=0.3)
    noise = jax.random.normal(jax.random.key(4), (posterior.noise_size,))
    raw, frame = posterior.head(FEATURES), posterior.frame(FEATURES)
    bend = posterior.network(jnp.concatenate([raw[2 * D :], noise]))
    expected = frame.loc + jnp.exp(frame.log_scale) * (noise[:D] + bounded_shift(bend))
    np.testing.assert_allclose(posterior.transform(FEATURES, noise), expected, rtol=1e-5, atol=1e-6)


def test_key_plays_no_part():
    posterior = implicit(bend=0.3)
    contrast = AnchoredMomentContrast(posterior.noise_size)
    first, other = (contrast_of(posterior, contrast, seed) for seed in (0, 1))
    assert eqx.tree_equal(first, other)


def test_default_number_of_points_suits_the_noise():
    assert AnchoredMomentContrast(4).anchors.shape == (32, 4)
    assert AnchoredMomentContrast(40).anchors.shape == (80, 40)


def test_basis_posterior_is_a_map_of_its_noise():
    posterior = BasisPosterior(jnp.ravel, num_basis=3, width=8, key=jax.random.key(0), **PLACE)
    assert posterior.noise_size == 9
    found = contrast_of(posterior, AnchoredMomentContrast(posterior.noise_size))
    assert np.all(np.linalg.eigvalsh(covariance(found)) > 0)
    key = jax.random.key(3)
    noise = jax.random.normal(key, (9,))
    np.testing.assert_array_equal(
        posterior.draw(FEATURES, key), posterior.transform(FEATURES, noise)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AnchoredMomentContrast(8, num_anchors=14),
            "points of the anchored moment contrast: expected an even number, at least twice "
            "the 8 noise variables, got 14",
        ),
        (
            lambda: AnchoredMomentContrast(2, num_anchors=5),
            "points of the anchored moment contrast: expected an even number, at least twice "
            "the 2 noise variables, got 5",
        ),
        (
            lambda: contrast_of(
                GaussianPosterior(jnp.ravel, key=jax.random.key(0), **PLACE),
                AnchoredMomentContrast(2),
            ),
            r"AnchoredMomentContrast: expected a posterior that is a map of noise "
            r"\(ImplicitPosterior or BasisPosterior\), got GaussianPosterior; "
            "use MomentContrast or GaussianContrast",
        ),
        (
            lambda: contrast_of(implicit(bend=0.0), AnchoredMomentContrast(2)),
            "noise variables of AnchoredMomentContrast: expected 6, got 2",
        ),
    ],
)
def test_parts_that_do_not_fit(make, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        make()
