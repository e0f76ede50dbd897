"""The tree that ArviZ gets."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from arviz_stats.base.array import array_stats

from avb import ConfigError, Inference

pytest.importorskip("arviz_base")

Y = np.array([0.5, 2.0, 1.2, 0.1], np.float32)
DRAWS = 500


def model(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 3.0))
    shift = numpyro.sample("shift", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.deterministic("sum", rate + shift.sum())
    numpyro.sample("y", dist.Exponential(rate), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return Inference(model, max_steps=500).run(jax.random.key(0), Y)


@pytest.fixture(scope="module")
def tree(posterior):
    return posterior.to_arviz(draws=DRAWS)


def test_sites_are_variables_of_one_chain(tree, posterior):
    group = tree["posterior"]
    assert {name: v.shape for name, v in group.data_vars.items()} == {
        "rate": (1, DRAWS),
        "shift": (1, DRAWS, 2),
        "sum": (1, DRAWS),
    }
    assert group["rate"].dims == ("chain", "draw")
    again = posterior.to_arviz(draws=DRAWS)
    np.testing.assert_array_equal(again["posterior"]["rate"], group["rate"])


def test_log_densities_are_those_of_the_draws(tree):
    rate = tree["posterior"]["rate"].values[0].astype(np.float64)
    shift = tree["posterior"]["shift"].values[0].astype(np.float64)
    terms = {
        "rate": st.gamma.logpdf(rate, 2.0, scale=1 / 3),
        "shift": st.norm.logpdf(shift).sum(axis=1),
        "y": st.expon.logpdf(Y[:, None], scale=1 / rate).sum(axis=0),
    }
    assert set(tree["log_prob"].data_vars) == set(terms)
    for name, expected in terms.items():
        np.testing.assert_allclose(tree["log_prob"][name].values[0], expected, atol=1e-4)
    # The rate alone is transformed, by a logarithm.
    np.testing.assert_allclose(
        tree["sample_stats"]["lp"].values[0], sum(terms.values()) + np.log(rate), atol=1e-4
    )
    # Conjugate: the posterior's density is known.
    exact = st.gamma.logpdf(rate, 2.0 + len(Y), scale=1 / (3.0 + Y.sum())) + np.log(rate)
    exact += terms["shift"]
    log_q = tree["sample_stats"]["log_q"].values[0]
    # Most draws have almost the right density; few lie far out in a tail.
    assert np.median(np.abs(log_q - exact)) < 0.05
    weight = tree["sample_stats"]["log_weight"].values[0]
    np.testing.assert_allclose(weight, tree["sample_stats"]["lp"].values[0] - log_q, atol=1e-5)


def test_leave_one_out_scores_are_the_exact_ones(posterior):
    tree = posterior.to_arviz(log_likelihood=True)
    logs = tree["log_likelihood"]["y"].values.astype(np.float64)
    rate = tree["posterior"]["rate"].values[0].astype(np.float64)
    np.testing.assert_allclose(logs[0], st.expon.logpdf(Y, scale=1 / rate[:, None]), atol=1e-4)
    # Conjugate: without one datum, the next is of Lomax's distribution.
    rest = Y.sum() - Y.astype(np.float64)
    exact = st.lomax.logpdf(Y, 2.0 + len(Y) - 1, scale=3.0 + rest)
    weights = np.exp(-logs[0])
    errors = weights.std(0) / weights.mean(0) / np.sqrt(len(weights))
    for index, (truth, error) in enumerate(zip(exact, errors, strict=True)):
        found = array_stats.loo(logs[:, :, index], chain_axis=0, draw_axis=1)[0]
        assert float(found) == pytest.approx(truth, abs=4 * error)


def test_data_without_a_likelihood_of_their_own():
    normal = Inference(lambda z: -0.5 * jnp.sum(z**2), dim=1, max_steps=500, starts=2)
    with pytest.raises(ConfigError) as error:
        normal.run(jax.random.key(0)).to_arviz(log_likelihood=True)
    assert str(error.value) == (
        "to_arviz(log_likelihood=True): expected a NumPyro model that sees all its rows and has no "
        "discrete latent sites, got another, whose data have no likelihood one by one; compute it "
        "from the draws of sample(...)"
    )


def test_factors_are_no_data():
    def partly(y):
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        numpyro.factor("penalty", -(shift**2))
        with numpyro.plate("rows", len(y)), numpyro.handlers.mask(mask=y < 1.0):
            numpyro.factor("each", -y)
            numpyro.sample("y", dist.Normal(shift, 1.0), obs=y)

    target = Inference(partly).target(jnp.asarray(Y))
    assert target.functions.log_likelihood is not None
    logs = target.functions.log_likelihood(target.arguments, jnp.zeros(1))
    assert set(logs) == {"y"}
    np.testing.assert_allclose(logs["y"], np.where(Y < 1.0, st.norm.logpdf(Y), 0.0), rtol=1e-5)


def test_diagnostics_are_attributes(tree, posterior):
    attributes = tree["posterior"].attrs
    assert attributes["elbo_lower"] == posterior.elbo.lower
    assert attributes["pareto_k"] == posterior.importance.pareto_k
    assert attributes["converged"] == int(posterior.converged)
    assert attributes["log_evidence_upper"] == posterior.importance.upper
    assert attributes["elbo_lower"] <= attributes["log_evidence_upper"]
    assert attributes["inference_library"] == "avb"


def test_without_arviz_the_error_says_what_to_install(posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ConfigError) as error:
        posterior.to_arviz()
    assert str(error.value) == (
        "to_arviz: expected arviz-base, which is not installed; run pip install 'avb[arviz]'"
    )
