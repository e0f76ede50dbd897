"""Fresh critics and the verdict, on posteriors whose ELBO is known exactly."""

import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import avb
from avb import ConfigError, Method
from avb.contrasts import AbstractContrast, PriorContrast
from avb.critics import ResidualCritic
from avb.densities import FullGaussian
from avb.evaluation import Finding, trained_on
from avb.evaluation._fresh_training import prepare
from avb.objectives import Logistic
from avb.posteriors import GaussianPosterior
from core.test_core_helpers import DATA_DIM, GAUSSIANS, LATENT_DIM, known_mixture
from evaluation.test_evaluation_curved import BEND, X, curved, exact_elbo, method_with

MODEL = GAUSSIANS.model()
TOLERANCE = 0.1


def fresh_critics(**settings) -> avb.FreshCritics:
    settings = {"key": jax.random.key(5), "critics": 1, "steps": 30, "draws": 16} | settings
    return avb.fresh_critic_elbo(MODEL, curved(), X, **settings)


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def fresh(told) -> avb.FreshCritics:
    def progress(done: int, total: int) -> None:
        told.append((done, total))

    return fresh_critics(critics=2, steps=400, draws=512, progress=progress)


def test_fresh_bound_is_above_the_exact_elbo_and_near_it(fresh):
    exact, upper = exact_elbo().mean(), fresh.upper
    assert upper.mean > exact - 3 * upper.standard_error
    assert upper.mean < exact + TOLERANCE + 3 * upper.standard_error
    assert (upper.quantity, upper.kind, upper.estimator) == ("ELBO", "upper bound", "fresh critics")


def test_fresh_estimate_is_near_the_exact_elbo(fresh):
    estimate = fresh.estimate
    assert abs(estimate.mean - exact_elbo().mean()) < TOLERANCE + 3 * estimate.standard_error
    assert estimate.kind == "critic estimate, not a bound"
    np.testing.assert_allclose(np.mean(fresh.means), estimate.mean, rtol=1e-5)


def test_fresh_critics_tell_what_they_learnt(fresh, told):
    assert told == [(1, 2), (2, 2)]
    # At T = 0 the weighted logistic loss of 4 contrast draws is 5 log 5 − 4 log 4.
    nothing = 5.0 * np.log(5.0) - 4.0 * np.log(4.0)
    assert all(loss < nothing - 0.1 for loss in fresh.losses)
    assert all(0.55 < accuracy < 0.9 for accuracy in fresh.accuracies)
    summary = fresh.as_dict()
    assert summary["upper"]["kind"] == "upper bound"
    assert len(summary["elbo_of_each_critic"]) == len(summary["held_out_loss"]) == 2
    assert "2 critics, 400 steps, 512 draws a datum, each critic " in fresh.estimate.detail


def test_spread_of_the_critics_is_in_the_standard_error(fresh):
    spread = abs(fresh.means[0] - fresh.means[1]) / 2.0
    assert fresh.estimate.standard_error > spread
    assert fresh.estimate.standard_error > fresh.upper.standard_error * 0.5


def test_bound_holds_for_critics_that_learnt_next_to_nothing():
    poor = fresh_critics(draws=512)
    # Of the contrast alone: what is left of KL(q‖r) is the entropy that the bend takes away.
    divergence = 0.5 * np.log(1.0 + 2.0 * BEND**2)
    above = poor.upper.mean - exact_elbo().mean()
    assert -3 * poor.upper.standard_error < above < divergence + 3 * poor.upper.standard_error


def test_fresh_critics_depend_on_the_key_alone():
    first, again = fresh_critics(), fresh_critics()
    np.testing.assert_array_equal(first.upper.values, again.upper.values)
    np.testing.assert_array_equal(first.estimate.errors, again.estimate.errors)
    cut = fresh_critics(batch_size=5)
    np.testing.assert_allclose(cut.upper.values, first.upper.values, rtol=1e-3)


def judged(method: Method, fresh: avb.FreshCritics | None = None, **settings) -> avb.Verdict:
    if fresh is not None:
        key = jax.random.key(12)
        settings["further"] = trained_on(method, X, fresh, key=key, steps=1000, draws=512)
    key = jax.random.key(9)
    return avb.judge_critic(method, X, key=key, fresh=fresh, draws=512, **settings)


def test_exact_critic_is_sound(fresh):
    verdict = judged(method_with(), fresh=fresh)
    assert verdict.sound
    assert verdict.reasons == ()
    assert verdict.flag is None
    assert verdict.doubt is None
    # Its judges cannot know more than the truth.
    assert verdict.too_high.nats < 3 * verdict.too_high.error
    assert abs(verdict.too_low.nats) < 3 * verdict.too_low.error + 0.02


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"factor": 0.0}, "nats above the fresh critics' upper bound"),
        ({"factor": 0.3}, "nats above the fresh critics' upper bound"),
        ({"shift": -0.4}, "nats above the upper bound by the same critic, trained on alone"),
        ({"factor": 3.0}, "not normalised: what it takes for q(z|x) integrates to at least"),
        ({"shift": 0.4}, "not normalised: what it takes for q(z|x) integrates to at least"),
    ],
    ids=["untrained", "over-regularised", "too low", "saturated", "too high"],
)
def test_broken_critics_are_flagged_by_name(settings, reason, fresh):
    method = method_with(**settings)
    verdict = judged(method, fresh=fresh)
    assert not verdict.sound
    assert any(reason in one for one in verdict.reasons)
    marked = verdict.mark(avb.critic_elbo(method, X, key=jax.random.key(0)))
    assert marked.flag == "; ".join(verdict.reasons)
    assert marked.as_dict()["flag"] == marked.flag
    assert verdict.as_dict()["sound"] is False


def test_a_verdict_by_critics_that_know_less_is_in_doubt():
    ignorant = fresh_critics(steps=1, draws=512)
    method = method_with()
    verdict = judged(method, fresh=ignorant)
    # The exact critic knows of the bend; what a single step leaves the judges are its moments.
    # Trained on, it knows as much as it did, but that is no second opinion.
    assert verdict.sound
    assert verdict.judge == "the same critic, trained on"
    assert abs(verdict.too_high.nats) < 3 * verdict.too_high.error + 0.02
    marked = verdict.mark(avb.critic_elbo(method, X, key=jax.random.key(0)))
    assert marked.flag is None
    doubt = marked.as_dict()["doubt"]
    shape = (
        r"the fresh critics, its judges, find ([\d.]+) ± ([\d.]+) nats less of KL\(q‖r\) than it, "
        "and cannot tell what it missed"
    )
    found = re.fullmatch(shape, doubt)
    assert found is not None
    shortfall, error = map(float, found.groups())
    assert abs(shortfall - 0.5 * np.log(1.0 + 2.0 * BEND**2)) < TOLERANCE + 3 * error
    assert verdict.as_dict()["doubts"] == [doubt]


def test_shifted_critic_is_found_out_by_the_size_of_its_shift(fresh):
    verdict = judged(method_with(shift=-0.4), fresh=fresh)
    assert abs(verdict.too_high.nats - 0.4) < 3 * verdict.too_high.error + TOLERANCE
    verdict = judged(method_with(shift=0.4), fresh=fresh)
    assert abs(verdict.too_low.nats - np.expm1(0.4)) < 3 * verdict.too_low.error + 0.05


class OwnMoments(AbstractContrast):
    """q itself, for posteriors that are Gaussian."""

    covariance: Array
    is_learned: ClassVar[bool] = False

    def condition(self, posterior, prior, features, key):
        if isinstance(posterior, GaussianPosterior):
            return posterior.density(features)
        return FullGaussian(posterior.frame(features).loc, jnp.linalg.cholesky(self.covariance))


def untrained(posterior, contrast) -> Method:
    critic = ResidualCritic(DATA_DIM, LATENT_DIM, width=4, key=jax.random.key(0))
    return Method(MODEL, posterior, contrast, critic, Logistic())


def posterior_and_judge(name: str):
    if name == "bracket":
        posterior, covariance = known_mixture()
        return posterior, jnp.asarray(covariance, jnp.float32)
    shapes = {"data_shape": (DATA_DIM,), "latent_dim": LATENT_DIM}
    return GaussianPosterior(jnp.ravel, **shapes, key=jax.random.key(4)), jnp.eye(LATENT_DIM)


@pytest.mark.parametrize(
    ("judge", "above"), [("bracket", "the upper bound"), ("exact density", "the exact ELBO")]
)
def test_critic_is_compared_with_the_density_or_its_bracket(judge, above):
    posterior, covariance = posterior_and_judge(judge)
    sound = judged(untrained(posterior, OwnMoments(covariance)), components=256)
    assert (sound.sound, sound.judge, sound.reasons) == (True, judge, ())
    wrong = judged(untrained(posterior, PriorContrast()), components=256)
    assert wrong.judge == judge
    assert not wrong.sound
    assert wrong.reasons[0].endswith(f"nats above {above}")


def test_finding_needs_three_standard_errors():
    assert Finding(0.5, 0.1).exceeds(0.1)
    assert not Finding(0.39, 0.1).exceeds(0.1)
    assert Finding.over_data(np.array([1.0, 3.0]), np.array([0.3, 0.4])) == (2.0, 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critics": 0}, "critics of the fresh critics: expected at least 1, got 0"),
        ({"steps": 0}, "steps of the fresh critics: expected at least 1, got 0"),
        ({"draws": 1}, "draws a datum: expected at least 2 for a standard error, got 1"),
    ],
)
def test_bad_settings_of_fresh_critics(settings, message):
    with pytest.raises(ConfigError) as raised:
        fresh_critics(**settings)
    assert str(raised.value) == message


def test_bad_settings_of_the_verdict(fresh):
    with pytest.raises(ConfigError) as raised:
        judged(method_with(), tolerance=-1.0)
    assert str(raised.value) == "tolerance of the verdict: expected zero or more, got -1.0"
    with pytest.raises(ConfigError) as raised:
        avb.judge_critic(method_with(), X[:3], key=jax.random.key(0), fresh=fresh)
    assert str(raised.value) == (
        "fresh critics: expected those of the same 3 data, got those of 16"
    )
    with pytest.raises(ConfigError) as raised:
        avb.judge_critic(Method(MODEL, posterior_and_judge("exact density")[0]), X, key=None)
    assert str(raised.value) == "the critic's estimate needs a method with a critic, got none"


@pytest.mark.parametrize("dim", [4, 16])
def test_the_contrast_of_fresh_critics_is_off_by_two_hundredths_of_a_nat_in_any_dimension(dim):
    posterior = GaussianPosterior(jnp.ravel, data_shape=(6,), latent_dim=dim, key=jax.random.key(1))
    data = np.asarray(jax.random.normal(jax.random.key(2), (12, 6)))
    arena = prepare(posterior, data, key=jax.random.key(3), batch_size=5)
    densities = jax.vmap(posterior.density)(arena.features)
    scale = np.exp(np.asarray(densities.log_scale))
    factors, locs = np.asarray(arena.contrast.scale_tril), np.asarray(arena.contrast.loc)

    def divergence(loc, scale, centre, factor):
        white = np.linalg.solve(factor, np.diag(scale))
        moved = np.linalg.solve(factor, loc - centre)
        return 0.5 * (np.sum(white**2) + moved @ moved - dim) - np.linalg.slogdet(white)[1]

    means = np.asarray(densities.loc)
    found = [divergence(*one) for one in zip(means, scale, locs, factors, strict=True)]
    assert 0.005 < np.mean(found) < 0.025
