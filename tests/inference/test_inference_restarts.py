"""Several trainings: what they say of each other, and the posterior that they are together."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb import ConfigError, Inference
from avb.inference import load
from avb.inference._framed import single_frame
from avb.inference._restarts import Agreement, agree, one_of, stack, start_mixtures
from avb.inference._target import Target

LOG_Z = math.log(2 * math.pi)
STEPS = 500


def banana(z):
    bent = z[1] - 0.2 * (z[0] ** 2 - 1.0)
    return -0.5 * z[0] ** 2 - 0.5 * bent**2


@pytest.fixture(scope="module")
def inference() -> Inference:
    return Inference(banana, dim=2, restarts=2, max_steps=STEPS)


@pytest.fixture(scope="module")
def posterior(inference):
    return inference.run(jax.random.key(0))


def test_the_stack_is_a_posterior_with_a_bracket(posterior):
    elbo, agreement = posterior.elbo, posterior.fit.agreement
    assert elbo.lower - 3 * elbo.lower_error <= LOG_Z
    assert elbo.upper + 3 * elbo.upper_error + 0.02 >= LOG_Z
    assert sum(agreement.weights) == pytest.approx(1.0, abs=1e-5)
    assert len(agreement.elbos) == 2
    # The weights are the best for the ELBO of the whole, found on draws of their own.
    assert elbo.lower >= min(agreement.elbos) - 4 * elbo.lower_error
    assert posterior.fit.modes == posterior.approximation.logits.size
    assert agreement.rhat < 1.01
    # Three standard errors of 2,000 guesses.
    assert agreement.c2st < 0.5 + 3 * math.sqrt(0.25 / 2000)
    assert "2 restarts of weights" in str(posterior)


def test_saved_and_loaded_with_its_agreement(posterior, inference, key, tmp_path):
    posterior.save(tmp_path / "posterior.npz")
    loaded = load(tmp_path / "posterior.npz", inference)
    assert loaded.fit == posterior.fit
    np.testing.assert_array_equal(
        loaded.sample_unconstrained(key, (20,)), posterior.sample_unconstrained(key, (20,))
    )


def test_a_wrong_restart_gets_no_weight_and_is_told(inference, key):
    """One training's parts moved away by four scales: the other is right."""
    target: Target = inference.target()
    frames = single_frame(jnp.zeros(2), jnp.eye(2))
    mixtures = start_mixtures(frames, jnp.zeros(1), key, 2)
    away = mixtures.frames.loc.at[1].add(4.0)
    mixtures = eqx.tree_at(lambda m: m.frames.loc, mixtures, away)
    np.testing.assert_allclose(one_of(mixtures, 1).frames.loc, 4.0)
    whole = stack(mixtures, target, key)
    found = agree(mixtures, whole, target, key)
    assert found.weights[0] > 0.98
    assert found.elbos[0] > found.elbos[1] + 5.0
    assert found.rhat > 1.5
    assert found.c2st > 0.95


def test_the_verdict_says_that_restarts_disagree(posterior):
    from avb.inference._verdict import judge

    verdict = judge(
        posterior.elbo,
        posterior.importance,
        stalled=True,
        steps=1,
        lost=0.0,
        modes_open=False,
        agreement=Agreement((0.5, 0.5), (0.0, 0.0), 1.2, 0.6),
    )
    assert "the restarts disagree: R-hat 1.200, C2ST 0.600" in verdict.reasons


def test_only_self_contrast_restarts():
    with pytest.raises(ConfigError) as error:
        Inference(banana, dim=2, method="flow", restarts=2)
    assert str(error.value) == "restarts with method 'flow': expected 1, got 2"
