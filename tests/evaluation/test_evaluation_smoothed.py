"""The bracket of a smoothed posterior, on a Gaussian one that only its draws are known of."""

import re
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
import pytest

import avb
from avb import ConfigError
from avb._types import Features, Key, Latent
from avb.densities import DiagonalGaussian
from avb.posteriors import AbstractPosterior
from core.test_core_helpers import (
    GAUSSIANS,
    LATENT_DIM,
    data,
    exact_posterior,
    known_mixture,
    known_mixture_loc,
)

X = data()
MIXTURE, COVARIANCE = known_mixture()
EXACT = GAUSSIANS.elbo(X, known_mixture_loc(X), COVARIANCE)
MOMENT_DRAWS = 512
NOISE_MESSAGE = "noise of the smoothed posterior: expected a number between 0 and 1"


class DrawsAlone(AbstractPosterior):
    """Another posterior with all but its draws hidden."""

    encoder: Callable
    hidden: AbstractPosterior
    latent_dim: int = eqx.field(static=True, default=LATENT_DIM)

    def draw(self, features: Features, key: Key) -> Latent:
        return self.hidden.draw(features, key)

    def frame(self, features: Features) -> DiagonalGaussian:
        return self.hidden.frame(features)


def smoothed(posterior: AbstractPosterior = MIXTURE, **settings):
    settings = {"key": jax.random.key(2), "draws": 800, "components": 500} | settings
    alone = DrawsAlone(posterior.encoder, posterior)
    return avb.smoothed_bracket(GAUSSIANS.model(), alone, X, **settings)


def test_gaussian_posterior_stays_what_it_is_and_lies_in_the_bracket():
    lower, upper = smoothed(noise=0.3)
    # A share σ² of the covariance comes from draws: the ELBO moves with the trace of
    # their error under the true precision, of standard deviation √(2/S) an eigenvalue.
    _, _, true = GAUSSIANS.posterior_map()
    ratios = np.linalg.eigvalsh(np.linalg.solve(true, COVARIANCE))
    moved = 0.3**2 * 0.5 * np.sqrt(2.0 / MOMENT_DRAWS * np.sum((ratios - 1.0) ** 2))
    slack = 3 * moved / np.sqrt(len(X))
    assert lower.mean - 3 * lower.standard_error - slack < EXACT.mean()
    assert EXACT.mean() < upper.mean + 3 * upper.standard_error + slack
    assert (lower.kind, upper.kind) == ("lower bound", "upper bound")
    assert lower.quantity == upper.quantity == "ELBO, smoothed"


def test_bracket_narrows_with_more_components_and_more_noise():
    few, many = (smoothed(noise=0.2, components=k) for k in (20, 1000))
    wide = smoothed(noise=0.7, components=20)
    widths = [upper.mean - lower.mean for lower, upper in (few, many, wide)]
    assert widths[1] < 0.5 * widths[0]
    assert widths[2] < 0.5 * widths[0]
    assert min(widths) > 0.0


def test_lower_bound_is_one_of_the_evidence():
    lower, _ = smoothed(exact_posterior(), noise=0.5)
    evidence = GAUSSIANS.log_evidence(X).mean()
    assert evidence - 0.2 < lower.mean < evidence + 3 * lower.standard_error


def test_automatic_noise_is_stated_and_repeatable():
    lower, upper = smoothed(draws=64)
    found = re.search(r"noise ([\d.]+) posterior scales \(automatic\)", lower.detail)
    assert found is not None
    again = smoothed(draws=64, noise=float(found[1]), batch_size=6)
    np.testing.assert_array_equal(again[0].values, lower.values)
    np.testing.assert_array_equal(again[1].values, upper.values)
    # No other noise does better, up to the errors.
    other = smoothed(draws=64, noise=0.1)[0]
    assert lower.mean > other.mean - 3 * np.hypot(lower.standard_error, other.standard_error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": 0.0}, f"{NOISE_MESSAGE}, got 0.0"),
        ({"noise": 1.5}, f"{NOISE_MESSAGE}, got 1.5"),
        ({"components": 0}, "components of the bracket: expected at least 1, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError) as raised:
        smoothed(**settings)
    assert str(raised.value) == message
