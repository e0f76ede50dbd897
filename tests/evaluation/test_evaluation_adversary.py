"""A diagnosis names the part that was broken, on a posterior whose density is known."""

import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb
from avb import ConfigError, Method
from avb.contrasts import AbstractContrast, AnchoredMomentContrast, GaussianContrast
from avb.critics import AbstractCritic, ResidualCritic
from avb.densities import FullGaussian
from avb.densities._scale import bounded_log_scale
from avb.evaluation import Diagnosis
from avb.evaluation._fault import in_words, name_fault
from avb.evaluation._verdict import Finding
from avb.objectives import Logistic
from avb.posteriors import GaussianPosterior, SemiImplicitPosterior
from core.test_core_helpers import DATA_DIM, GAUSSIANS, LATENT_DIM
from evaluation.test_evaluation_curved import BEND, Matched, X, curved, method_with

MODEL = GAUSSIANS.model()
DIVERGENCE = 0.5 * np.log(1.0 + 2.0 * BEND**2)
SHIFT = 4.0


class Displaced(AbstractContrast):
    """The matched Gaussian, several of its scales away from where it should be."""

    is_learned: ClassVar[bool] = False

    def condition(self, posterior, prior, features, key) -> FullGaussian:
        matched = Matched().condition(posterior, prior, features, key)
        away = jnp.zeros(LATENT_DIM).at[0].set(SHIFT)
        return FullGaussian(matched.loc + matched.scale_tril @ away, matched.scale_tril)


class Constant(AbstractCritic):
    """A network that cannot tell one latent vector from another."""

    value: jax.Array

    def features(self, x, posterior_features):
        return posterior_features

    def evaluate(self, features, white):
        return self.value


def untrained(contrast: AbstractContrast, posterior=None) -> Method:
    critic = ResidualCritic(DATA_DIM, LATENT_DIM, width=32, key=jax.random.key(0))
    return Method(MODEL, posterior or curved(), contrast, critic, Logistic())


def diagnosed(method: Method, **settings) -> Diagnosis:
    settings = {"key": jax.random.key(3), "steps": 400, "draws": 256} | settings
    return avb.diagnose(method, X, **settings)


def within(found: Finding, expected: float, room: float) -> bool:
    return abs(found.nats - expected) < 3 * found.error + room


@pytest.fixture(scope="module")
def undertrained() -> Diagnosis:
    return diagnosed(untrained(Matched()))


@pytest.fixture(scope="module")
def displaced() -> Diagnosis:
    return diagnosed(untrained(Displaced()))


def test_sound_adversary_has_no_part_at_fault():
    found = diagnosed(method_with())
    assert found.fault == "none"
    assert found.sentence.startswith("No part is at fault")
    assert within(found.divergence, DIVERGENCE, 0.1)
    assert abs(found.excess.nats) < 3 * found.excess.error + 0.02
    assert abs(found.accuracy - found.best_accuracy) < 0.05
    assert found.slope_error < 0.3


def test_undertrained_critic_is_named_and_measured(undertrained):
    assert undertrained.fault == "critic lags"
    assert undertrained.sentence.startswith("The critic lags: the critic's ELBO is 0.")
    assert undertrained.sentence.endswith("or critic_final_rate, or lower learning_rate.")
    assert within(undertrained.too_high, DIVERGENCE, 0.1)
    assert within(undertrained.misfit, 0.0, 0.01)
    # At T = 0 the logistic loss is 2 log 2, and training on brings it towards the best.
    assert undertrained.loss == pytest.approx(2 * np.log(2))
    assert undertrained.best_loss < undertrained.loss - 0.1
    assert undertrained.refitted_loss < undertrained.loss - 0.1
    assert undertrained.logits == (0.0,) * 6


def test_slope_error_of_no_critic_is_the_score_of_what_it_misses(undertrained):
    # E|∇T*|² over E|∇ log q|² in whitened coordinates, both by a sum over exact scores.
    posterior, features = curved(), jnp.asarray(X[0], jnp.float32)
    prior, key = MODEL.fixed_prior, jax.random.key(0)
    matched = Matched().condition(posterior, prior, features, key)
    keys = jax.random.split(jax.random.key(0), 20_000)
    z = jax.vmap(posterior.draw, in_axes=(None, 0))(features, keys)
    score = jax.vmap(jax.grad(lambda z: posterior.log_q(features, z)))(z) @ matched.scale_tril
    missed = score - jax.vmap(jax.grad(matched.log_prob))(z) @ matched.scale_tril
    exact = float(jnp.sqrt(jnp.mean(jnp.sum(missed**2, 1)) / jnp.mean(jnp.sum(score**2, 1))))
    # The reference is a critic itself, trained for a few hundred steps only.
    assert undertrained.slope_error == pytest.approx(exact, abs=0.15)


def test_poor_contrast_is_named_and_measured(displaced):
    assert displaced.fault == "contrast"
    assert "use AnchoredMomentContrast or GaussianContrast" in displaced.sentence
    assert within(displaced.misfit, 0.5 * SHIFT**2, 0.02)
    assert within(displaced.divergence, 0.5 * SHIFT**2 + DIVERGENCE, 0.1)
    assert displaced.too_high.nats == pytest.approx(displaced.divergence.nats)


def test_critic_without_capacity_is_named():
    method = Method(MODEL, curved(), Matched(), Constant(jnp.zeros(())), Logistic())
    # By key 3 one of the 4,096 contrast draws that its judge is normalised by outweighs all others.
    found = diagnosed(method, key=jax.random.key(4))
    assert found.fault == "critic too weak"
    assert "use ResidualCritic(quadratic=True) or a wider critic" in found.sentence


def test_overshooting_critic_is_named():
    found = diagnosed(method_with(shift=0.4))
    assert found.fault == "critic overshoots"
    assert within(found.excess, np.expm1(0.4), 0.05)
    assert f"integrates to {1.0 + found.excess.nats:.2f}" in found.sentence


def test_references_with_a_density_train_no_fresh_critics():
    places = {"data_shape": (DATA_DIM,), "latent_dim": LATENT_DIM, "key": jax.random.key(2)}
    contrast = GaussianContrast(DATA_DIM, LATENT_DIM, covariance="diagonal", key=jax.random.key(4))
    found = diagnosed(untrained(contrast, GaussianPosterior(jnp.ravel, **places)), steps=5, draws=8)
    assert (found.reference, found.fault) == ("exact density", "none")
    # A scale is bounded by a smooth clip, which leaves an untrained contrast's a little off.
    scale = float(bounded_log_scale(jnp.zeros(())))
    exact = LATENT_DIM * (scale + 0.5 * np.expm1(-2.0 * scale))
    assert within(found.divergence, exact, 1e-5)
    told = []
    found = diagnosed(
        untrained(contrast, SemiImplicitPosterior(jnp.ravel, **places)),
        steps=5,
        draws=8,
        progress=lambda *told_of: told.append(told_of),
    )
    assert found.reference == "mixture of 1024 conditionals"
    assert {name for name, _, _ in told} == {"critic trained on", "draws"}


def test_diagnosis_is_ready_for_json_and_depends_on_the_key_alone(undertrained):
    document = undertrained.as_dict()
    assert json.loads(json.dumps(document))["fault"] == "critic lags"
    assert set(document["gradient_norms"]) == {"encoder", "decoder", "contrast", "critic"}
    assert diagnosed(untrained(Matched())).as_dict() == document


@pytest.mark.parametrize(
    ("too_high", "refitted", "misfit", "fault"),
    [
        (0.05, 0.0, 0.0, "none"),
        (1.0, 0.2, 0.1, "critic lags"),
        (1.0, 0.2, 1.0, "contrast"),
        (1.0, 0.9, 0.8, "contrast"),
        (1.0, 0.6, 0.4, "critic too weak"),
    ],
)
def test_half_of_the_error_names_the_fault(too_high, refitted, misfit, fault):
    sure = {name: Finding(value, 0.0) for name, value in {
        "divergence": 1.0, "misfit": misfit, "too_high": too_high,
        "refitted_too_high": refitted, "excess": 0.0,
    }.items()}  # fmt: skip
    assert name_fault(**sure, thickness=None, tolerance=0.1) == fault
    head = GaussianContrast(DATA_DIM, LATENT_DIM, key=jax.random.key(0))
    sentence = in_words(fault, **sure, thickness=None, contrast=head)
    assert ("it follows q too slowly" in sentence) == (fault == "contrast")


def test_advice_on_a_contrast_is_not_to_use_what_is_used():
    far = dict.fromkeys(("divergence", "misfit", "too_high", "refitted_too_high"), 0.9)
    sure = {name: Finding(value, 0.0) for name, value in {**far, "excess": 0.0}.items()}
    contrast = AnchoredMomentContrast(LATENT_DIM, num_anchors=64)
    assert in_words("contrast", **sure, thickness=0.5, contrast=contrast) == (
        "The contrast is at fault: the critic's ELBO is 0.90 nats too high, and of the 0.90 nats "
        "that the contrast leaves to the critic a Gaussian with the moments of q would spare it "
        "0.90; its 64 points of noise are too few for these moments: give AnchoredMomentContrast "
        "more (num_anchors=128)."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps of a diagnosis: expected at least 1, got 0"),
        (
            {"tolerance": -1.0},
            "tolerance of a diagnosis: expected zero or more, got -1.0",
        ),
        ({"draws": 1}, "draws a datum: expected at least 2 for a standard error, got 1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        diagnosed(method_with(), **settings)
