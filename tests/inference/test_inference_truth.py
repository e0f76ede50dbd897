"""Posteriors against closed forms; draws, files and reproducibility of the result."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro.infer import MCMC, NUTS, Predictive

import avb
from avb import ConfigError, Inference, RunError
from avb.inference import Posterior, _rounds, load

DRAWS = 20_000
LOC = np.array([100.0, -3.0, 0.0])
FACTOR = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.3, -0.2, 0.1]])
HEADS = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0], np.float32)


def gaussian(z):
    inverse = jnp.asarray(np.linalg.inv(FACTOR), z.dtype)
    return -0.5 * jnp.sum((inverse @ (z - jnp.asarray(LOC, z.dtype))) ** 2)


def coin(y):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    numpyro.deterministic("odds", p / (1.0 - p))
    numpyro.sample("y", dist.Bernoulli(probs=p), obs=y)


@pytest.fixture(scope="module")
def gaussian_posterior() -> Posterior:
    return Inference(gaussian, dim=3).run(jax.random.key(1))


@pytest.fixture(scope="module")
def coin_inference() -> Inference:
    return Inference(coin)


@pytest.fixture(scope="module")
def coin_posterior(coin_inference) -> Posterior:
    return coin_inference.run(jax.random.key(2), HEADS)


def test_gaussian_bracket_holds_log_z(gaussian_posterior):
    truth = 1.5 * math.log(2 * math.pi) + np.linalg.slogdet(FACTOR)[1]
    elbo = gaussian_posterior.elbo
    # One part in 10⁶ of the quadratic is what float32 leaves of coordinates near 100.
    slack = 2e-3
    assert elbo.lower - 3 * elbo.lower_error - slack <= truth
    assert truth <= elbo.upper + 3 * elbo.upper_error + slack
    assert elbo.upper - elbo.lower < 0.02
    assert gaussian_posterior.importance.log_evidence == pytest.approx(truth, abs=slack)
    assert gaussian_posterior.converged, gaussian_posterior.verdict
    assert gaussian_posterior.fit.modes == 1


@pytest.mark.parametrize(("draws", "resample"), [(DRAWS, False), (DRAWS // 5, True)])
def test_gaussian_moments(gaussian_posterior, key, draws, resample):
    z = gaussian_posterior.sample_unconstrained(key, (draws,), resample=resample)
    z = np.asarray(z, np.float64)
    covariance = FACTOR @ FACTOR.T
    scale = np.sqrt(np.diagonal(covariance))
    # Resampling repeats draws: a chunk of 1,000 holds at least half as many different ones.
    error = 1.0 / math.sqrt(draws / (3 if resample else 1))
    np.testing.assert_allclose((z.mean(0) - LOC) / scale, 0.0, atol=4 * error + 0.01)
    relative = np.cov(z.T) / np.outer(scale, scale)
    np.testing.assert_allclose(relative, covariance / np.outer(scale, scale), atol=6 * error + 0.02)


def test_beta_binomial(coin_posterior, key):
    exact = st.beta(2 + HEADS.sum(), 3 + (1 - HEADS).sum())
    sites = coin_posterior.sample(key, (DRAWS,))
    p = np.asarray(sites["p"], np.float64)
    np.testing.assert_allclose(sites["odds"], sites["p"] / (1 - sites["p"]), rtol=1e-4)
    # The critical distance of Kolmogorov and Smirnov at 10⁻⁴ is 2.23 / √n; the rest is bias.
    assert st.kstest(p, exact.cdf).statistic < 2.23 / math.sqrt(DRAWS) + 0.01
    log_evidence = st.betabinom.logpmf(HEADS.sum(), len(HEADS), 2, 3) - math.log(
        math.comb(len(HEADS), int(HEADS.sum()))
    )
    elbo = coin_posterior.elbo
    assert elbo.lower - 3 * elbo.lower_error <= log_evidence
    assert log_evidence <= elbo.upper + 3 * elbo.upper_error + 0.01
    found = coin_posterior.importance
    assert found.log_evidence == pytest.approx(log_evidence, abs=4 * found.error + 1e-3)
    assert coin_posterior.converged


def test_normal_gamma(key):
    rng = np.random.default_rng(0)
    y = rng.normal(3.0, 2.0, 12).astype(np.float32)

    def model(y):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.5))
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0 / jnp.sqrt(0.5 * precision)))
        numpyro.sample("y", dist.Normal(mean, 1.0 / jnp.sqrt(precision)), obs=y)

    posterior = Inference(model).run(jax.random.key(3), y)
    n, total = len(y), y.sum()
    shape = 2.0 + n / 2
    rate = 1.5 + 0.5 * ((y - y.mean()) ** 2).sum() + 0.5 * n * 0.5 * y.mean() ** 2 / (n + 0.5)
    sites = posterior.sample(key, (DRAWS,))
    bound = 2.23 / math.sqrt(DRAWS) + 0.01
    exact = st.gamma(shape, scale=1 / rate)
    assert st.kstest(np.asarray(sites["precision"]), exact.cdf).statistic < bound
    marginal = st.t(2 * shape, total / (n + 0.5), math.sqrt(rate / (shape * (n + 0.5))))
    assert st.kstest(np.asarray(sites["mean"]), marginal.cdf).statistic < bound
    assert posterior.converged, posterior.verdict


def test_separated_modes_and_a_funnel(key, monkeypatch):
    """Two modes of weights 0.3 and 0.7 in one coordinate; a funnel in the others."""
    monkeypatch.setattr(_rounds, "MAX_ROUNDS", 1)

    def log_density(z):
        ends = jnp.stack(
            [
                math.log(0.3) - 0.5 * ((z[0] + 6.0) / 0.5) ** 2,
                math.log(0.7) - 0.5 * ((z[0] - 6.0) / 0.5) ** 2,
            ]
        )
        funnel = -0.5 * (z[1] / 2.0) ** 2 - 0.5 * jnp.sum(z[2:] ** 2) * jnp.exp(-z[1]) - z[1]
        return jax.nn.logsumexp(ends) + funnel

    posterior = Inference(log_density, dim=4, max_steps=500).run(jax.random.key(4))
    z = np.asarray(posterior.sample_unconstrained(key, (DRAWS,)))
    assert np.isfinite(z).all()
    assert np.mean(z[:, 0] > 0) == pytest.approx(0.7, abs=0.07)
    truth = math.log(0.5) + math.log(2.0) + 2 * math.log(2 * math.pi)
    elbo = posterior.elbo
    assert math.isfinite(elbo.lower)
    assert math.isfinite(elbo.upper)
    assert elbo.lower - 3 * elbo.lower_error <= truth
    assert posterior.fit.skipped == 0
    weights = ", ".join(f"{weight:.3f}" for weight in posterior.fit.weights)
    told = f"method self, {posterior.fit.modes} parts of weights {weights}; "
    assert posterior.fit.modes >= 2
    assert told in str(posterior)


def test_same_key_same_bits(coin_inference, coin_posterior, key):
    again = coin_inference.run(jax.random.key(2), HEADS)
    assert again.elbo == coin_posterior.elbo
    for a, b in zip(
        jax.tree.leaves(again.sample(key, (50,))),
        jax.tree.leaves(coin_posterior.sample(key, (50,))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_sites_and_shapes_as_mcmc_gives_them(coin_posterior, key):
    mcmc = MCMC(NUTS(coin), num_warmup=5, num_samples=6, progress_bar=False)
    mcmc.run(key, HEADS)
    theirs, ours = mcmc.get_samples(), coin_posterior.sample(key, (6,))
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}
    assert coin_posterior.sample(key)["p"].shape == ()
    assert coin_posterior.sample(key, (2, 3))["p"].shape == (2, 3)
    assert Predictive(coin, ours)(key, None)["y"].shape == (6,)


def test_saved_and_loaded(coin_inference, coin_posterior, key, tmp_path):
    path = tmp_path / "posterior.npz"
    coin_posterior.save(path)
    loaded = load(path, coin_inference, HEADS)
    np.testing.assert_array_equal(
        loaded.sample(key, (50,))["p"], coin_posterior.sample(key, (50,))["p"]
    )
    assert str(loaded) == str(coin_posterior)
    bare = avb.inference.load(path)
    np.testing.assert_array_equal(
        bare.sample_unconstrained(key, (50,)), coin_posterior.sample_unconstrained(key, (50,))
    )
    with pytest.raises(ConfigError) as error:
        bare.sample(key, (50,))
    assert str(error.value) == (
        "sample: expected the model, whose transforms give the sites, got none; pass it to "
        "avb.inference.load, or use sample_unconstrained"
    )
    with pytest.raises(ConfigError) as error:
        load(path, Inference(gaussian, dim=3))
    assert str(error.value) == "dimensions of the loaded posterior's model: expected 1, got 3"
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(RunError, match="expected a saved posterior"):
        load(tmp_path / "other.npz")


def test_printed_table_names_all_scalars_and_the_verdict(coin_posterior):
    text = str(coin_posterior)
    assert "p " in text
    assert "odds" in text
    assert "ELBO in [" in text
    assert f"method self; {coin_posterior.fit.steps} steps, " in text
    assert text.splitlines()[-1] == "converged"
    rows = coin_posterior.summary()
    assert [row["site"] for row in rows] == ["odds", "p"]
    exact = st.beta(2 + HEADS.sum(), 3 + (1 - HEADS).sum())
    assert rows[1]["mean"] == pytest.approx(exact.mean(), abs=0.02)
    assert rows[1]["median"] == pytest.approx(exact.median(), abs=0.02)
