"""The other methods against a Gaussian target, whose ELBOs are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb import ConfigError, Inference
from avb.densities._gaussian import LOG_2PI
from avb.inference import _rounds, load
from avb.inference._train import Budget

CORRELATION = 0.8
STEPS = 600
LOG_Z = math.log(2 * math.pi) + 0.5 * math.log(1 - CORRELATION**2)
SCALES = np.array([3.0, 0.2])
TRUTH = LOG_Z + math.log(SCALES.prod())


def density(z):
    u = (z - 5.0) / jnp.asarray(SCALES, z.dtype)
    squares = jnp.sum(u**2) - 2 * CORRELATION * u[0] * u[1]
    return -0.5 * squares / (1 - CORRELATION**2)


@pytest.fixture(scope="module")
def posteriors():
    found = {}

    def of(method):
        if method not in found:
            inference = Inference(density, dim=2, method=method, max_steps=STEPS)
            found[method] = inference, inference.run(jax.random.key(0))
        return found[method]

    return of


# Independent coordinates lose the mutual information: the best of them has the conditional scales.
@pytest.mark.parametrize(
    ("method", "lost"),
    [
        ("gaussian", 0.0),
        ("gaussian-diagonal", -0.5 * math.log(1 - CORRELATION**2)),
        ("flow", 0.0),
    ],
)
def test_elbo_is_the_known_one(posteriors, method, lost):
    _, posterior = posteriors(method)
    elbo = posterior.elbo
    assert elbo.lower == elbo.upper
    slack = 3 * elbo.lower_error + 1e-4
    # The rest is what the last steps' noise leaves.
    assert TRUTH - lost - slack - 0.01 <= elbo.lower <= TRUTH - lost + slack
    assert posterior.fit.method == method
    assert "exact density" in str(posterior)
    assert posterior.converged == (lost == 0.0)


def test_resampling_mends_the_diagonal_gaussian(posteriors, key):
    _, posterior = posteriors("gaussian-diagonal")
    assert posterior.importance.log_evidence == pytest.approx(
        TRUTH, abs=4 * posterior.importance.error
    )
    assert posterior.importance.upper > TRUTH
    plain = np.corrcoef(posterior.sample_unconstrained(key, (4000,)).T)[0, 1]
    assert abs(plain) < 0.1


def test_a_critic_has_no_bracket_and_says_what_there_is_instead(posteriors, key):
    _, posterior = posteriors("critic")
    message = (
        "expected a posterior with a density, got one of method 'critic', which can only be "
        "sampled; use smoothed_bracket(key) for bounds of the posterior with a little noise, or "
        "fresh_critics(key) for an estimate and a bound from above"
    )
    for name in ("elbo", "importance"):
        with pytest.raises(ConfigError) as error:
            getattr(posterior, name)
        assert str(error.value) == f"{name}: {message}"
    with pytest.raises(ConfigError, match="importance: expected a posterior with a density"):
        posterior.sample(key, (10,), resample=True)
    assert not posterior.converged
    assert "ELBO" not in str(posterior)
    lower, upper = posterior.smoothed_bracket(key, draws=500, components=512)
    assert lower.mean - 3 * lower.standard_error <= TRUTH
    assert upper.mean + 3 * upper.standard_error >= TRUTH - 0.3
    z = np.asarray(posterior.sample_unconstrained(key, (4000,)))
    np.testing.assert_allclose(z.mean(0), 5.0, atol=0.3 * SCALES.max())
    assert np.corrcoef(z.T)[0, 1] > 0.6


@pytest.mark.parametrize("method", ["flow", "critic"])
def test_saved_and_loaded(posteriors, method, key, tmp_path):
    inference, posterior = posteriors(method)
    posterior.save(tmp_path / "posterior.npz")
    loaded = load(tmp_path / "posterior.npz", inference)
    np.testing.assert_array_equal(
        loaded.sample_unconstrained(key, (20,)), posterior.sample_unconstrained(key, (20,))
    )
    assert str(loaded) == str(posterior)


def test_bounds_for_samplers_are_for_samplers(posteriors, key):
    _, posterior = posteriors("gaussian")
    with pytest.raises(ConfigError) as error:
        posterior.fresh_critics(key)
    assert str(error.value) == (
        "fresh_critics: expected a posterior without a density, of method 'critic', got method "
        "'gaussian'; use elbo"
    )


def funnels(z):
    """Eight scales, and eight numbers of those scales; normalised."""
    logs, x = z[:8], z[8:]
    inner = -0.5 * x**2 * jnp.exp(-2.0 * logs) - logs
    return jnp.sum(-0.5 * logs**2 + inner) - 8 * LOG_2PI


def test_a_flow_takes_the_place_of_a_mixture_that_did_not_converge(monkeypatch, tmp_path):
    monkeypatch.setattr(_rounds, "MAX_ROUNDS", 1)
    monkeypatch.setattr(_rounds, "budget_of", lambda _, most: Budget(64, 64, max_steps=most))
    inference = Inference(funnels, dim=16, max_steps=1000, starts=4)
    posterior = inference.run(jax.random.key(0))
    assert posterior.fit.method == "flow"
    # The mixture alone ends near −1.7, as eight pairs ask for more than it has components.
    assert -0.5 < posterior.elbo.lower <= 3 * posterior.elbo.lower_error
    posterior.save(tmp_path / "posterior.npz")
    assert str(load(tmp_path / "posterior.npz", inference)) == str(posterior)


def test_a_mixture_that_converged_is_kept():
    # Few steps, but enough for a Gaussian target, however the stretches of the bound compare.
    posterior = Inference(density, dim=2, max_steps=STEPS).run(jax.random.key(0))
    assert posterior.converged
    assert posterior.fit.method == "self"


def test_unknown_methods_are_refused():
    with pytest.raises(ConfigError) as error:
        Inference(density, dim=2, method="laplace")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == (
        "method: expected one of 'auto', 'self', 'critic', 'gaussian', 'gaussian-diagonal', "
        "'flow', got 'laplace'"
    )


def test_a_flow_needs_two_dimensions():
    with pytest.raises(ConfigError) as error:
        Inference(lambda z: -jnp.sum(z**2), dim=1, method="flow").run(jax.random.key(0))
    assert str(error.value) == (
        "method 'flow': expected at least 2 dimensions to couple, got 1; use 'self'"
    )
