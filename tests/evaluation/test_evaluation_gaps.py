"""The gaps of inference on a linear-Gaussian model, where every ELBO is known exactly."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb import ConfigError, DataError
from avb._types import Features, Key, Latent
from avb.densities import DiagonalGaussian
from avb.evaluation import Estimate, InferenceGaps, inference_gaps
from avb.posteriors import (
    AbstractPosterior,
    AbstractTractablePosterior,
    FlowPosterior,
    GaussianPosterior,
    ImplicitPosterior,
)
from core.test_core_helpers import (
    DATA_DIM,
    GAUSSIANS,
    LATENT_DIM,
    Gaussians,
    affine,
    assert_same_bits,
    data,
    exact_posterior,
    known_mixture,
    known_mixture_loc,
    raw_of_scale,
)

CORRELATED = Gaussians(np.array([[1.2, 1.0], [0.9, 1.1], [0.4, 0.5]]), np.array([0.2, -0.1, 0.4]))
X = data()
GAIN, OFFSET, COVARIANCE = CORRELATED.posterior_map()
PRECISION = np.linalg.inv(COVARIANCE)
TRUE_LOC = X @ GAIN.T + OFFSET
SHIFT = np.array([0.4, -0.3])
SCALE = np.array([0.5, 0.9])
# What Adam leaves when it stops: over five seeds at most 0.0145 nats for a datum, 0.002 on average.
SEARCH = 0.015
MEAN_SEARCH = 0.003


def evidence(kind: str = "exact", lack: float = 0.0, of: Gaussians = CORRELATED) -> Estimate:
    """The evidence of the data, or something below it."""
    values = of.log_evidence(X) - lack
    return Estimate("log p(x)", kind, "closed form", values, np.zeros(len(X)), "")


def diagonal_posterior(shift: np.ndarray, scale: np.ndarray) -> GaussianPosterior:
    """A diagonal Gaussian around the true mean plus a shift; three features for four numbers."""
    posterior = GaussianPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, key=jax.random.key(0)
    )
    weight = np.concatenate([GAIN, np.zeros((LATENT_DIM, DATA_DIM))])
    head = affine(weight, np.concatenate([OFFSET + shift, raw_of_scale(scale)]))
    return eqx.tree_at(lambda p: p.head, posterior, head)


def gaps_of(
    posterior: AbstractPosterior, log_evidence: Estimate, of: Gaussians = CORRELATED, **settings
) -> InferenceGaps:
    key = settings.pop("key", jax.random.key(1))
    return inference_gaps(of.model(), posterior, X, log_evidence, key=key, **settings)


BEST_DIAGONAL = 0.5 * (np.sum(np.log(np.diag(PRECISION))) - np.linalg.slogdet(PRECISION)[1])


@pytest.fixture(scope="module")
def gaussian() -> InferenceGaps:
    return gaps_of(diagonal_posterior(SHIFT, SCALE), evidence())


def test_the_best_diagonal_gaussian_in_closed_form():
    """KL(N(m, D) ‖ N(m, P⁻¹)) is smallest at D_jj = 1/P_jj: ½(Σ log P_jj − log det P)."""
    exact = CORRELATED.elbo(X, TRUE_LOC, np.diag(1.0 / np.diag(PRECISION)))
    np.testing.assert_allclose(CORRELATED.log_evidence(X) - exact, BEST_DIAGONAL, rtol=1e-9)


def test_gaps_of_a_diagonal_gaussian(gaussian):
    own = CORRELATED.elbo(X, TRUE_LOC + SHIFT, np.diag(SCALE**2))
    total = CORRELATED.log_evidence(X) - own
    expected = {
        "approximation": np.full(len(X), BEST_DIAGONAL),
        "amortisation": total - BEST_DIAGONAL,
        "total": total,
    }
    for name, truth in expected.items():
        gap = getattr(gaussian, name)
        assert np.all(np.abs(gap.values - truth) < 4 * gap.errors + SEARCH), name
        assert np.all(gap.errors < 0.2 * truth), name
    assert abs(gaussian.approximation.mean - BEST_DIAGONAL) < (
        3 * gaussian.approximation.standard_error + MEAN_SEARCH
    )


def test_gaps_say_what_they_are(gaussian):
    kinds = {name: gap["kind"] for name, gap in gaussian.as_dict().items()}
    assert kinds == {
        "approximation": "upper bound",
        "amortisation": "lower bound",
        "total": "exact",
    }
    below = gaps_of(diagonal_posterior(SHIFT, SCALE), evidence("lower bound", 0.1), steps=1)
    kinds = {name: gap["kind"] for name, gap in below.as_dict().items()}
    assert kinds == {
        "approximation": "estimate, not a bound",
        "amortisation": "lower bound",
        "total": "lower bound",
    }
    assert below.total.quantity == "inference gap"
    assert below.total.detail == "256 draws a datum, 1 steps, lower bound of log p(x)"


def test_the_parts_add_up(gaussian):
    np.testing.assert_allclose(
        gaussian.approximation.values + gaussian.amortisation.values,
        gaussian.total.values,
        atol=1e-5,
    )


def test_common_noise_makes_the_amortisation_gap_precise():
    """A posterior that is nearly the best one: the gap is far below the ELBO's own error."""
    scale = 1.0 / np.sqrt(np.diag(PRECISION))
    gaps = gaps_of(diagonal_posterior(0.05 * SHIFT, scale), evidence())
    assert gaps.amortisation.standard_error < 0.3 * gaps.total.standard_error
    assert gaps.amortisation.mean > -3 * gaps.amortisation.standard_error


def test_where_nothing_is_to_be_gained_the_gap_is_zero():
    gaps = gaps_of(exact_posterior(), evidence(of=GAUSSIANS), GAUSSIANS, steps=20)
    for gap in (gaps.approximation, gaps.amortisation, gaps.total):
        np.testing.assert_allclose(gap.values, 0.0, atol=5e-4)


def test_a_search_that_fails_leaves_the_posterior_as_it_is():
    gaps = gaps_of(diagonal_posterior(SHIFT, SCALE), evidence(), steps=3, rate=1e6)
    np.testing.assert_array_equal(gaps.amortisation.values, 0.0)
    np.testing.assert_array_equal(gaps.amortisation.errors, 0.0)


def test_gaps_of_a_semi_implicit_posterior():
    """Its location is off by a shift; the best of the family can at least undo that."""
    posterior, covariance = known_mixture()
    moved = posterior.head.bias.at[:LATENT_DIM].add(SHIFT)
    posterior = eqx.tree_at(lambda p: p.head.bias, posterior, moved)
    gaps = gaps_of(posterior, evidence(of=GAUSSIANS), GAUSSIANS, draws=512, components=512)
    loc = known_mixture_loc(X)
    log_evidence = GAUSSIANS.log_evidence(X)
    total = log_evidence - GAUSSIANS.elbo(X, loc + SHIFT, covariance)
    unmoved = log_evidence - GAUSSIANS.elbo(X, loc, covariance)
    bracket = 0.02
    assert np.all(gaps.total.values < total + 4 * gaps.total.errors)
    assert np.all(gaps.total.values > total - 4 * gaps.total.errors - bracket)
    assert gaps.approximation.mean < unmoved.mean() + 3 * gaps.approximation.standard_error
    assert gaps.approximation.mean > -3 * gaps.approximation.standard_error
    assert gaps.amortisation.mean > (total - unmoved).mean() - bracket
    assert gaps.total.kind == "lower bound"
    assert gaps.total.detail.endswith("K = 512")


def test_a_flow_gets_closer_than_its_encoder_took_it(key):
    posterior = FlowPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, layers=2, width=8, key=key
    )
    gaps = gaps_of(posterior, evidence(), steps=150)
    assert gaps.amortisation.mean > 10 * gaps.amortisation.standard_error
    assert np.all(gaps.approximation.values > -4 * gaps.approximation.errors)
    assert gaps.approximation.mean < 0.5 * gaps.total.mean


class KnownScale(AbstractTractablePosterior):
    """A posterior of another maker: features are its mean, and nothing else is free."""

    encoder: Callable
    latent_dim: int = LATENT_DIM

    def density(self, features: Features) -> DiagonalGaussian:
        return DiagonalGaussian(features, jnp.log(jnp.asarray(SCALE, jnp.float32)))

    def frame(self, features: Features) -> DiagonalGaussian:
        return self.density(features)

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)


def test_features_are_what_is_free_where_no_head_is_known():
    gaps = gaps_of(KnownScale(affine(GAIN, OFFSET + SHIFT)), evidence())
    expected = 0.5 * SHIFT @ PRECISION @ SHIFT
    assert np.all(
        np.abs(gaps.amortisation.values - expected) < 4 * gaps.amortisation.errors + SEARCH
    )


def test_estimation_gap_of_a_critic():
    posterior = diagonal_posterior(SHIFT, SCALE)
    own = CORRELATED.elbo(X, TRUE_LOC + SHIFT, np.diag(SCALE**2))
    kind = "critic estimate, not a bound"
    critic = Estimate("ELBO", kind, "critic of training", own + 1.5, np.full(len(X), 0.1), "d")
    gaps = gaps_of(posterior, evidence(), critic=critic, steps=1)
    assert gaps.estimation is not None
    assert np.all(np.abs(gaps.estimation.values - 1.5) < 4 * gaps.estimation.errors)
    assert np.all(gaps.estimation.errors > 0.1)
    assert gaps.estimation.detail == "d; ELBO known to ± 0 nats"
    assert list(gaps.as_dict()) == ["approximation", "amortisation", "total", "estimation"]


def test_same_key_same_gaps_whatever_the_batch_size():
    posterior = diagonal_posterior(SHIFT, SCALE)
    told = []
    settings = {"steps": 5}
    first = gaps_of(posterior, evidence(), **settings)
    assert_same_bits(first.total.values, gaps_of(posterior, evidence(), **settings).total.values)
    split = gaps_of(
        posterior,
        evidence(),
        batch_size=4,
        progress=lambda done, total: told.append((done, total)),
        **settings,
    )
    assert told == [(3, 6), (6, 6)]
    for name in ("approximation", "amortisation", "total"):
        np.testing.assert_allclose(
            getattr(split, name).values, getattr(first, name).values, atol=1e-5
        )
    other = gaps_of(posterior, evidence(), key=jax.random.key(2), **settings)
    assert np.abs(other.total.values - first.total.values).max() > 1e-3


def test_what_cannot_be_split_is_refused(key):
    implicit = ImplicitPosterior(
        jnp.ravel, data_shape=(DATA_DIM,), latent_dim=LATENT_DIM, width=4, key=key
    )
    gaussian = diagonal_posterior(SHIFT, SCALE)
    short = Estimate("log p(x)", "exact", "", np.zeros(2), np.zeros(2), "")

    def message(error, posterior, log_evidence, **settings) -> str:
        with pytest.raises(error) as caught:
            gaps_of(posterior, log_evidence, **settings)
        return str(caught.value)

    assert message(ConfigError, implicit, evidence()) == (
        "inference gaps need a posterior whose ELBO is known or bounded, got ImplicitPosterior: "
        "use a posterior with a density or a SemiImplicitPosterior, or compare log p(x) with "
        "smoothed_bracket"
    )
    assert message(ConfigError, gaussian, evidence("upper bound")) == (
        "log_evidence: expected log p(x) as an exact value or a lower bound, got one of kind "
        "'upper bound'; use importance_bound"
    )
    assert message(DataError, gaussian, short) == (
        "log_evidence: expected one value for each of the 6 data, got 2"
    )
    assert message(DataError, gaussian, evidence(), critic=short) == (
        "critic: expected one value for each of the 6 data, got 2"
    )
    assert message(ConfigError, gaussian, evidence(), steps=0) == (
        "steps of the inference gaps: expected a positive number, got 0"
    )
    assert message(ConfigError, gaussian, evidence(), draws=1) == (
        "draws a datum: expected at least 2 for a standard error, got 1"
    )
