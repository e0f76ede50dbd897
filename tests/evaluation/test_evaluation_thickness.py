"""How thick a posterior is: closed forms, and what a floor does."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb import PRESETS, Architecture, ConfigError
from avb.contrasts import AnchoredMomentContrast
from avb.densities import DiagonalGaussian
from avb.evaluation import Finding, thickness
from avb.evaluation._fault import in_words, name_fault
from avb.nets import MLPEncoder
from avb.posteriors import AbstractImplicitPosterior, GaussianPosterior, ImplicitPosterior

DATA = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
ENCODER = MLPEncoder((3,), width=4, depth=1, key=jax.random.key(0))
SHAPES = {"data_shape": (3,), "latent_dim": 2}


class Wave(AbstractImplicitPosterior):
    """Noise along a sine of so many radians a unit, and so much across it."""

    radians: float
    across: float
    encoder: eqx.Module = ENCODER
    latent_dim: int = 2

    @property
    def noise_size(self) -> int:
        return 2

    def transform(self, features, noise):
        along, off = noise
        return jnp.stack([along, jnp.sin(self.radians * along) + self.across * off])

    def added_scale(self, features):
        return None

    def frame(self, features):
        return DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))


def test_a_gaussian_is_as_thick_as_its_moments(key):
    posterior = ImplicitPosterior(ENCODER, **SHAPES, key=key)
    # Its 512 draws have the covariance of q to a few percent.
    assert thickness(posterior, DATA, key=key) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("across", [0.01, 0.1, 0.3])
def test_a_wave_is_as_thick_as_the_noise_across_it(across, key):
    radians = 8.0
    along = np.random.default_rng(1).normal(size=20_000)
    wave = np.stack(
        [along, np.sin(radians * along) + across * np.random.default_rng(2).normal(size=along.size)]
    )
    factor = np.linalg.cholesky(np.cov(wave))
    slopes = radians * np.cos(radians * along[:4000])
    jacobians = np.zeros((4000, 2, 2))
    jacobians[:, 0, 0], jacobians[:, 1, 0], jacobians[:, 1, 1] = 1.0, slopes, across
    expected = np.median(np.linalg.svd(np.linalg.solve(factor, jacobians), compute_uv=False)[:, -1])
    found = thickness(Wave(radians=radians, across=across), DATA, key=key)
    assert found == pytest.approx(expected, rel=0.35)
    assert found < 2 * across


def strongly_bent(floor: float, key, reach: float = 4.0, weight: float = 30.0) -> ImplicitPosterior:
    posterior = ImplicitPosterior(ENCODER, **SHAPES, noise_dim=2, floor=floor, reach=reach, key=key)
    weights = weight * jax.random.normal(jax.random.fold_in(key, 1), (2, 128))
    return eqx.tree_at(lambda p: p.network.layers[-1].weight, posterior, weights)


def test_a_floor_adds_noise_to_any_bend(key):
    plain, floored = strongly_bent(0.0, key), strongly_bent(0.5, key)
    features = ENCODER(jnp.asarray(DATA[0]))
    assert plain.added_scale(features) is None
    noise = jax.random.normal(key, (4,))
    scale = jnp.exp(floored.frame(features).log_scale)
    np.testing.assert_allclose(
        floored.draw(features, key),
        plain.transform(features, noise[:2]) + 0.5 * scale * noise[2:],
        rtol=1e-5,
    )
    assert thickness(plain, DATA, key=key) < thickness(floored, DATA, key=key)


@pytest.mark.parametrize(
    ("settings", "floor", "noise"),
    [({}, 0.3, 8), ({"floor": 0.5}, 0.5, 8), ({"floor": 0.0}, 0.0, 16)],
)
def test_the_preset_has_a_floor_and_little_reach(settings, floor, noise, key):
    architecture = Architecture((3,), latent_dim=8, width=4)
    posterior = PRESETS["avb_adaptive"](architecture, **settings, key=key).posterior
    assert (posterior.reach, posterior.floor, posterior.noise_dim) == (1.0, floor, noise)


def test_the_contrast_knows_the_covariance_of_a_floor(key):
    plain, floored = strongly_bent(0.0, key), strongly_bent(0.5, key)
    contrast = AnchoredMomentContrast(2, num_anchors=64)
    features = ENCODER(jnp.asarray(DATA[0]))
    without, found = (
        contrast.condition(posterior, None, features, key)  # pyright: ignore
        for posterior in (plain, floored)
    )
    np.testing.assert_array_equal(found.loc, without.loc)
    np.testing.assert_allclose(
        found.scale_tril @ found.scale_tril.T - without.scale_tril @ without.scale_tril.T,
        jnp.diag(floored.added_scale(features) ** 2),
        rtol=1e-3,
        atol=1e-3 * float(jnp.max(without.scale_tril) ** 2),
    )


def test_what_cannot_be_measured_is_named(key):
    message = (
        "thickness: expected a posterior that is a map of noise (ImplicitPosterior or "
        "BasisPosterior), got GaussianPosterior"
    )
    with pytest.raises(ConfigError) as caught:
        thickness(GaussianPosterior(ENCODER, **SHAPES, key=key), DATA, key=key)
    assert str(caught.value) == message
    with pytest.raises(ConfigError) as caught:
        ImplicitPosterior(ENCODER, **SHAPES, floor=-0.1, key=key)
    assert str(caught.value) == "floor of an implicit posterior: expected zero or more, got -0.1"
    with pytest.raises(ConfigError) as caught:
        ImplicitPosterior(ENCODER, **SHAPES, reach=0.0, key=key)
    expected = "reach of an implicit posterior: expected a positive number, got "
    assert str(caught.value) == f"{expected}0.0"
    with pytest.raises(ConfigError) as caught:
        ImplicitPosterior(ENCODER, **SHAPES, reach=float("inf"), key=key)
    assert str(caught.value) == f"{expected}inf"


def test_little_reach_keeps_the_floor_a_share_of_the_spread(key):
    """The floor is 0.5 of scales beyond which each coordinate spreads by 1 + reach at most."""
    wide, near = (strongly_bent(0.5, key, reach, 1000.0) for reach in (4.0, 0.5))
    thin, thick = (thickness(posterior, DATA, key=key) for posterior in (wide, near))
    assert thin < 0.9 * thick
    assert thick > 0.5 / math.sqrt(2 * (1.5**2 + 0.5**2))
    z = near.transform(near.encoder(jnp.asarray(DATA[0])), jnp.asarray([0.7, -0.2]))
    frame = near.frame(near.encoder(jnp.asarray(DATA[0])))
    moved = frame.whiten(z) - jnp.asarray([0.7, -0.2])
    assert float(jnp.max(jnp.abs(moved))) <= 0.5 + 1e-6


@pytest.mark.parametrize("missed", [0.0, 1.0])
def test_a_thin_posterior_is_at_fault_whatever_critics_find(missed):
    found = dict.fromkeys(("divergence", "misfit", "too_high", "refitted_too_high"), missed)
    seen = {name: Finding(value, 0.01) for name, value in {**found, "excess": 0.0}.items()}
    assert name_fault(**seen, thickness=0.5, tolerance=0.1) == ("contrast" if missed else "none")
    fault = name_fault(**seen, thickness=0.012, tolerance=0.1)
    assert fault == "posterior too thin"
    assert in_words(fault, **seen, thickness=0.012, contrast=AnchoredMomentContrast(2)) == (
        "The posterior is too thin: around a draw it spreads 0.012 times as far as over all, in "
        "its thinnest direction, and critics hardly see such folds. Do not trust the critic's "
        "ELBO without log p(x) beside it; train with less noise_reach (avb_adaptive has 1.0) or a "
        "higher floor (0.3), for fewer epochs, or with method 'sivi'."
    )
