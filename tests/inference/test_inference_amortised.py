"""Posteriors trained on simulations: closed forms, calibration, messages."""

import copy
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from avb import AmortisedInference, ConfigError, DataError, RunError
from avb.densities._full_mixture import FullMixture
from avb.inference._amortiser import Standard
from avb.posteriors import MixturePosterior

ROWS = 6
PRIOR = 2.0
Y = np.array([1.0, 2.5, 0.3, -0.4, 1.1, 1.9], np.float32)


def normal(y=None):
    """Mean and known error, which differs from one data set to the next."""
    mean = numpyro.sample("mean", dist.Normal(0.0, PRIOR).expand([2]).to_event(1))
    error = numpyro.sample("error", dist.Uniform(0.5, 1.5))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Normal(mean[0], error), obs=y)
    numpyro.deterministic("double", 2.0 * mean)


@pytest.fixture(scope="module")
def amortised() -> AmortisedInference:
    return AmortisedInference(normal, observed=("y", "error")).fit(jax.random.key(0), steps=2000)


def exact(y, error):
    variance = 1 / (1 / PRIOR**2 + ROWS / error**2)
    return variance * y.sum() / error**2, math.sqrt(variance)


@pytest.mark.parametrize("error", [0.6, 1.3])
def test_against_the_closed_form(amortised, key, error):
    posterior = amortised.posterior({"y": Y, "error": error})
    mean, deviation = exact(Y, error)
    draws = 4000
    sites = posterior.sample(key, (draws,))
    assert set(sites) == {"mean", "double"}
    np.testing.assert_array_equal(sites["double"], 2 * sites["mean"])
    z = np.asarray(sites["mean"], np.float64)
    # A short training leaves a tenth of a sd.
    assert abs(z[:, 0].mean() - mean) / deviation < 0.1 + 4 / math.sqrt(draws)
    assert abs(z[:, 0].std() / deviation - 1) < 0.1 + 3 / math.sqrt(draws)
    # The data say nothing of the second mean.
    assert abs(z[:, 1].mean()) / PRIOR < 0.1 + 4 / math.sqrt(draws)
    assert abs(z[:, 1].std() / PRIOR - 1) < 0.1 + 3 / math.sqrt(draws)


def test_importance_weights_find_the_evidence(amortised, key):
    error = 0.8
    posterior = amortised.posterior({"y": Y, "error": error})
    covariance = error**2 * np.eye(ROWS) + PRIOR**2
    truth = st.multivariate_normal.logpdf(Y, np.zeros(ROWS), covariance)
    # The density of the error in (0.5, 1.5) is one.
    found = posterior.importance
    assert found.trusted
    assert found.log_evidence == pytest.approx(truth, abs=4 * found.error + 1e-4)
    mean, deviation = exact(Y, error)
    draws = 1000
    z = np.asarray(posterior.sample_unconstrained(key, (draws,), resample=True))
    assert abs(z[:, 0].mean() - mean) / deviation < 5 / math.sqrt(draws)
    assert abs(z[:, 0].std() / deviation - 1) < 4 / math.sqrt(draws)


def test_density_is_that_of_the_draws(amortised, key):
    posterior = amortised.posterior({"y": Y, "error": 1.0})
    z = posterior.sample_unconstrained(key, (4000,))
    # E_q[N / q] is one for every density N.
    loc, scale = z.mean(0), z.std(0)
    log_q = jax.vmap(posterior.log_prob)(z)
    log_n = jax.scipy.stats.norm.logpdf(z, loc[None], scale[None]).sum(1)
    ratio = np.exp(np.asarray(log_n - log_q, np.float64))
    assert ratio.mean() == pytest.approx(1.0, abs=4 * ratio.std() / math.sqrt(len(ratio)))


def test_calibrated_over_the_prior(amortised, key):
    found = amortised.calibration(key, simulations=200, draws=49)
    assert found.names == ("mean[0]", "mean[1]", "log p(z, x)")
    assert found.ranks.shape == (200, 3)
    # At 0.1%: a short training may leave a little, and this is no test of chance.
    assert np.all(found.uniformity.adjusted_p_values > 1e-3)


def test_an_untrained_posterior_is_not_calibrated(amortised, key):
    """So that the test above could fail."""
    wrong = copy.copy(amortised).fit(key, steps=1, rate=0.0)
    assert not wrong.calibration(key, simulations=200, draws=49).calibrated


def test_same_key_same_bits(amortised, key):
    first, second = (copy.copy(amortised).fit(key, steps=500) for _ in range(2))
    assert first.history == second.history
    data = {"y": Y, "error": 1.0}
    np.testing.assert_array_equal(
        first.posterior(data).sample(key, (9,))["mean"],
        second.posterior(data).sample(key, (9,))["mean"],
    )
    assert len(amortised.history) == 4


def test_mixture_density_against_scipy(key):
    rng = np.random.default_rng(0)
    loc, logits = rng.normal(size=(3, 2)), rng.normal(size=3)
    whitening = np.tril(rng.normal(size=(3, 2, 2)))
    whitening[:, [0, 1], [0, 1]] = np.exp(rng.normal(size=(3, 2)))
    mixture = FullMixture(*(jnp.asarray(a, jnp.float32) for a in (logits, loc, whitening)))
    weights = np.exp(logits) / np.exp(logits).sum()
    covariances = [np.linalg.inv(a.T @ a) for a in whitening]
    z = rng.normal(size=2)
    density = sum(
        w * st.multivariate_normal.pdf(z, m, c)
        for w, m, c in zip(weights, loc, covariances, strict=True)
    )
    assert float(mixture.log_prob(jnp.asarray(z, jnp.float32))) == pytest.approx(
        math.log(density), abs=1e-4
    )
    moments = mixture.moments()
    mean = weights @ loc
    total = sum(
        w * (c + np.outer(m - mean, m - mean))
        for w, m, c in zip(weights, loc, covariances, strict=True)
    )
    np.testing.assert_allclose(moments.loc, mean, rtol=1e-4)
    np.testing.assert_allclose(moments.scale_tril @ moments.scale_tril.T, total, rtol=1e-3)
    draws = np.asarray(jax.vmap(mixture.sample)(jax.random.split(key, 20_000)), np.float64)
    white = np.linalg.solve(np.linalg.cholesky(total), (draws - mean).T)
    np.testing.assert_allclose(white.mean(1), 0.0, atol=4 / math.sqrt(20_000))


def test_posterior_of_an_encoder(key):
    posterior = MixturePosterior(lambda x: x, data_shape=(3,), latent_dim=2, key=key)
    x = jnp.ones(3)
    assert posterior.sample(key, x, (5,)).shape == (5, 2)
    assert posterior.log_prob(x, jnp.zeros(2)).shape == ()
    frame, moments = posterior.frame(x), posterior.density(x).moments()
    np.testing.assert_allclose(frame.loc, moments.loc)
    deviation = np.sqrt(np.diagonal(moments.scale_tril @ moments.scale_tril.T))
    np.testing.assert_allclose(jnp.exp(frame.log_scale), deviation, rtol=1e-5)


def test_coordinates_of_heavy_tails_and_of_constants():
    sample = np.stack([st.cauchy.rvs(size=1000, random_state=0), np.ones(1000)], axis=1)
    standard = Standard.of(sample)
    white = np.asarray(jax.vmap(standard)(jnp.asarray(sample)))
    assert np.quantile(white[:, 0], 0.75) - np.quantile(white[:, 0], 0.25) == pytest.approx(1.349)
    np.testing.assert_array_equal(white[:, 1], 0.0)
    back = jax.vmap(standard.back)(jnp.asarray(white))
    np.testing.assert_allclose(back, sample, rtol=1e-4, atol=1e-4)


def improper():
    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mean, 1.0))


def test_messages(key):
    untrained = AmortisedInference(normal, observed=("y", "error"))
    cases = [
        (
            lambda: AmortisedInference(3, observed=("y",)),  # pyright: ignore
            ConfigError,
            "model: expected a function, got int",
        ),
        (
            lambda: AmortisedInference(normal, observed=()),
            ConfigError,
            "observed: expected the names of the sites that are data, got none",
        ),
        (
            lambda: AmortisedInference(normal, observed=("double",)),
            ConfigError,
            "observed: expected names of sample sites, got 'double'",
        ),
        (
            lambda: AmortisedInference(normal, Y, observed=("y",)),
            ConfigError,
            "site 'y': expected to be sampled, got a value; leave the data out of the arguments, "
            "so that the model draws them",
        ),
        (
            lambda: AmortisedInference(normal, observed=("y",), summary=lambda d: d["y"][None]),
            ConfigError,
            "number of axes of the summary: expected 1, got 2",
        ),
        (
            lambda: untrained.fit(key, steps=0),
            ConfigError,
            "steps: expected at least 1, got 0",
        ),
        (
            lambda: untrained.posterior({"y": Y, "error": 1.0}),
            ConfigError,
            "amortised inference: expected a trained posterior; call fit first",
        ),
        (
            lambda: untrained.posterior({"y": Y}),
            DataError,
            "data: expected y, error, got y",
        ),
        (
            lambda: untrained.posterior({"y": Y[:2], "error": 1.0}),
            DataError,
            "data 'y': expected shape (6,), as simulated, got (2,)",
        ),
        (
            lambda: untrained.posterior({"y": Y, "error": math.nan}),
            DataError,
            "data 'error': expected finite numbers, got NaN or infinity",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == message
    with pytest.raises(ConfigError, match="amortised inference needs proper priors"):
        AmortisedInference(improper, observed=("y",))


def test_a_saved_one_draws_and_weighs_as_the_first(amortised, key, tmp_path):
    path = tmp_path / "amortised.npz"
    amortised.save(path)
    loaded = AmortisedInference(normal, observed=("y", "error")).load(str(path))
    assert loaded.history == amortised.history
    first, second = (a.posterior({"y": Y, "error": 0.6}) for a in (amortised, loaded))
    np.testing.assert_array_equal(first.sample(key, (9,))["mean"], second.sample(key, (9,))["mean"])
    assert first.importance == second.importance


def test_what_cannot_be_loaded_is_named(amortised, tmp_path):
    path = tmp_path / "amortised.npz"
    fresh = AmortisedInference(normal, observed=("y", "error"))
    with pytest.raises(ConfigError, match="expected a trained posterior; call fit first"):
        fresh.save(path)
    with pytest.raises(RunError, match="expected a saved amortised posterior, got"):
        fresh.load(path)
    path.write_bytes(b"not a file of arrays")
    with pytest.raises(RunError, match="expected a saved amortised posterior, got"):
        fresh.load(path)
    amortised.save(path)
    other = AmortisedInference(normal, observed=("y",))
    message = f"data of {path}: expected y float32[6], got error float32[], y float32[6]"
    with pytest.raises(ConfigError) as caught:
        other.load(path)
    assert str(caught.value) == message
    narrow = AmortisedInference(normal, observed=("y", "error"), summary=lambda data: data["y"][:3])
    with pytest.raises(ConfigError, match="expected the arrays of this model, summary and"):
        narrow.load(path)
    assert path.read_bytes()[:2] == b"PK"


class Killed(BaseException):
    """Ends training where a signal would."""


def stop_at(done: int, total: int) -> None:
    if done == 1000:
        raise Killed


def test_training_that_was_killed_goes_on_bit_for_bit(amortised, tmp_path):
    settings = {"steps": 2000, "checkpoint_dir": tmp_path / "run"}
    first = AmortisedInference(normal, observed=("y", "error"))
    with pytest.raises(Killed):
        first.fit(jax.random.key(0), progress=stop_at, **settings)
    told = []
    second = AmortisedInference(normal, observed=("y", "error"))
    second.fit(jax.random.key(0), progress=lambda done, total: told.append(done), **settings)
    assert told == [1500, 2000]
    assert second.history == amortised.history
    leaves = zip(
        jax.tree.leaves(second.amortiser), jax.tree.leaves(amortised.amortiser), strict=True
    )
    assert all(np.array_equal(a, b) for a, b in leaves if eqx.is_array(a))
    finished = AmortisedInference(normal, observed=("y", "error")).fit(
        jax.random.key(0), **settings
    )
    assert finished.history == amortised.history
    other = "holds the run of something else \\(key is 0 0 there and 0 1 here\\): give another"
    with pytest.raises(RunError, match=other):
        first.fit(jax.random.key(1), **settings)
