"""Latent sites inside the subsampled plate: their integrals, draws, files and errors."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import potential_energy
from scipy import stats

from avb import ConfigError, Inference
from avb.inference import _minibatch, _rounds, _row_training, load
from avb.inference._journal import Journal
from avb.inference._row_fit import RowIntegrals, check_integrals
from avb.inference._row_training import fit_rows
from avb.inference._train import Budget

ROWS, BATCH = 300, 50
NOISE, SPREAD = 0.5, 0.8
TRUE_SLOPES = np.array([0.7, -0.5])


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _rounds, "budget_of", lambda _, most: Budget(32, 64, max_steps=most, decay_stretches=1)
        )
        patch.setattr(_rounds, "MAX_ROUNDS", 1)
        patch.setattr(_row_training, "STEPS", 400)
        yield


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2)).astype(np.float32)
    noise = NOISE * rng.normal(size=ROWS) + SPREAD * rng.normal(size=ROWS)
    return x, (x @ TRUE_SLOPES + noise).astype(np.float32)


def linear(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        effect = numpyro.sample("effect", dist.Normal(x[index] @ slopes, SPREAD))
        numpyro.sample("y", dist.Normal(effect, NOISE), obs=y[index])


def exact(x, y):
    """Mean and covariance of the slopes, and the log evidence, with the effects integrated out."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    variance = NOISE**2 + SPREAD**2
    covariance = np.linalg.inv(np.eye(2) + x.T @ x / variance)
    marginal = variance * np.eye(ROWS) + x @ x.T
    evidence = stats.multivariate_normal(np.zeros(ROWS), marginal).logpdf(y)
    return covariance @ x.T @ y / variance, covariance, evidence


@pytest.fixture(scope="module")
def inference():
    return Inference(linear, max_steps=500, starts=2)


@pytest.fixture(scope="module")
def posterior(inference, data):
    return inference.run(jax.random.key(0), *data)


@pytest.mark.slow
def test_linear_model_against_its_closed_form(posterior, data, key):
    mean, covariance, evidence = exact(*data)
    draws = 20_000
    sites = posterior.sample(key, (draws,))
    assert set(sites) == {"slopes"}
    z, deviation = np.asarray(sites["slopes"], np.float64), np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose((z.mean(0) - mean) / deviation, 0.0, atol=4 / draws**0.5 + 0.03)
    np.testing.assert_allclose(z.std(0) / deviation, 1.0, atol=3 / draws**0.5 + 0.02)
    assert posterior.importance.log_evidence == pytest.approx(evidence, abs=0.1)
    assert posterior.converged
    found = posterior.rows.integrals
    assert abs(found.nats) < 0.1
    assert found.shift < 0.03
    assert found.effective > 0.9
    assert "latents of each row integrated by 32 points" in str(posterior)


def test_latents_of_rows_against_their_closed_form(posterior, data, key):
    x, y = data
    rows, draws = [7, 0, 299], 2000
    sites = posterior.sample_rows(key, rows, (draws,))
    assert sites["effect"].shape == (draws, 3)
    precision = 1 / SPREAD**2 + 1 / NOISE**2
    prior = np.asarray(sites["slopes"], np.float64) @ x[rows].T
    mean = (prior / SPREAD**2 + y[rows] / NOISE**2) / precision
    white = (np.asarray(sites["effect"], np.float64) - mean) * math.sqrt(precision)
    for column in white.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(white.T)[np.triu_indices(3, 1)]).max() < 5 / math.sqrt(draws)


def test_the_same_rows_in_another_order(posterior, key):
    """More rows than a minibatch, and shapes of a sample of two axes."""
    many = posterior.sample_rows(key, np.arange(BATCH + 10), (2, 3))
    assert many["effect"].shape == (2, 3, BATCH + 10)
    assert many["slopes"].shape == (2, 3, 2)
    assert np.isfinite(many["effect"]).all()


def test_saved_and_loaded(inference, posterior, data, key, tmp_path):
    path = tmp_path / "posterior.npz"
    posterior.save(path)
    loaded = load(path, inference, *data)
    assert loaded.rows.integrals == posterior.rows.integrals
    again, before = (p.sample_rows(key, [3, 5], (20,)) for p in (loaded, posterior))
    for name in ("slopes", "effect"):
        np.testing.assert_array_equal(again[name], before[name])
    bare = load(path)
    bare.save(tmp_path / "again.npz")
    assert load(tmp_path / "again.npz", inference, *data).rows.integrals == loaded.rows.integrals
    with pytest.raises(ConfigError) as error:
        bare.sample_rows(key, [0])
    assert str(error.value) == (
        "sample: expected the model, whose transforms give the sites, got none; pass it to "
        "avb.inference.load, or use sample_unconstrained"
    )


def skewed(x, y):
    """Sites of several kinds: constrained, with events, in a second plate, scaled, and masked."""
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", ROWS, subsample_size=BATCH, dim=-2) as index:
        shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones((1, 3))))
        with numpyro.plate("twice", 2, dim=-1):
            size = numpyro.sample("size", dist.Gamma(2.0, rate))
            with handlers.mask(mask=x[index][:, :1] > 0):
                mean = size * shares[..., :1].squeeze(-1)
                numpyro.sample("x", dist.Normal(mean, 1.0), obs=x[index])
        with handlers.scale(scale=0.5):
            numpyro.factor("y", (y[index] * rate)[:, None])


@jax.numpy_rank_promotion("allow")  # NumPyro's stick breaking needs it
def test_log_joint_is_that_of_numpyro(data, key):
    source = Inference(skewed).source(*data)
    index = jnp.arange(BATCH)
    arguments = source.arrays[0], source.batches(np.arange(BATCH)[None])
    arguments = arguments[0], jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), arguments[1])
    model = source.rows.model
    assert model.dim == 2 + 2
    z = jnp.asarray([0.3])
    u = jax.random.normal(key, (BATCH, model.dim))
    outside, rows = jax.jit(model.log_joint)(arguments, z, u)
    fixed = handlers.substitute(handlers.seed(skewed, 0), data={"rows": index})
    params = {"rate": z[0], "shares": u[:, None, :2], "size": u[:, 2:]}
    energy = potential_energy(fixed, data, {}, params)
    assert rows.shape == (BATCH,)
    assert float(outside + model.weight * rows.sum()) == pytest.approx(-float(energy), rel=1e-5)
    sites = model.sites(arguments, z, u)
    assert sites["shares"].shape == (BATCH, 1, 3)
    expected = biject_to(dist.Gamma(2.0, 1.0).support)(u[:, 2:])
    np.testing.assert_allclose(sites["size"], expected, rtol=1e-6)


def counts(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        frailty = numpyro.sample("frailty", dist.Gamma(1.5, 1.5))
        numpyro.sample("y", dist.Poisson(jnp.exp(x[index] @ slopes) * frailty), obs=y[index])


def test_integrals_of_skewed_latents(data, key):
    """Gamma times Poisson is negative binomial: each row's integral is known."""
    x, y = data[0], np.random.default_rng(1).poisson(1.0, ROWS).astype(np.float32)
    source = fit_rows(Inference(counts).source(x, y), key, Journal(None))
    z = np.array([0.1, -0.2])
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), source.batches(np.arange(BATCH)[None]))
    arrays, integral = source.arrays
    weighted = source.rows.weigh(integral, (arrays, batch), jnp.asarray(z, jnp.float32))
    mean = np.exp(x[:BATCH].astype(np.float64) @ z)
    truth = stats.nbinom.logpmf(y[:BATCH], 1.5, 1.5 / (1.5 + mean))
    off = np.asarray(weighted.log_integrals(), np.float64) - truth
    assert np.abs(off).max() < 0.05
    assert abs(off.mean()) < 0.005


def test_an_integral_that_is_wrong_is_told(data, key):
    """A proposal that was never fitted; more points show what it misses."""
    found = check_integrals(
        Inference(linear, row_draws=4).source(*data),
        TRUE_SLOPES[None] + 0.05 * jax.random.normal(key, (100, 2)),
        key,
    )
    assert found.draws == 4
    assert found.nats > 10.0
    assert found.effective < 0.9
    bad = dataclasses.replace(found, shift=0.31)
    assert _minibatch.row_reason(bad) == (
        "integrals over the latents of each row by 4 points may have moved a mean by 0.31 "
        "posterior sds; give Inference more row_draws"
    )
    assert _minibatch.row_reason(RowIntegrals(32, 0.1, 0.01, 0.9)) is None


def test_points_are_added_until_they_are_enough(data, key, monkeypatch):
    """With a proposal that is hardly fitted: more than at first, and no more than is allowed."""
    monkeypatch.setattr(_row_training, "STEPS", 20)
    for most, expected in ((None, (64, 256)), (32, (32, 32))):
        source = Inference(linear, row_draws=most).source(*data)
        monkeypatch.setattr(_row_training, "ENOUGH", 1e-3)
        fitted = fit_rows(source, key, Journal(None))
        assert expected[0] <= fitted.draws <= expected[1]
        assert fitted.arrays[1].points.shape == (fitted.draws, 1)


class Shared(eqx.Module):
    """An encoder of one's own, with parameters."""

    layer: eqx.nn.Linear

    def __call__(self, x, y):
        return jnp.tanh(self.layer(jnp.append(x, y)))


def test_an_encoder_of_ones_own_is_trained(data, key, monkeypatch):
    monkeypatch.setattr(_row_training, "STEPS", 100)
    encoder = Shared(eqx.nn.Linear(3, 8, key=key))
    source = Inference(linear, encoder=encoder).source(*data)
    fitted = fit_rows(source, key, Journal(None))
    proposal = fitted.rows.proposal(fitted.arrays[1])
    assert isinstance(proposal.encoder, Shared)
    assert not np.array_equal(proposal.encoder.layer.weight, encoder.layer.weight)
    again = fit_rows(source, key, Journal(None))
    np.testing.assert_array_equal(
        again.rows.proposal(again.arrays[1]).encoder.layer.weight, proposal.encoder.layer.weight
    )


def test_a_run_that_was_stopped_goes_on(inference, posterior, data, tmp_path, key):
    def stop(done: int, most: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        inference.run(jax.random.key(0), *data, checkpoint_dir=tmp_path / "run", progress=stop)
    assert (tmp_path / "run" / "rows.npz").exists()
    stopped = inference.run(jax.random.key(0), *data, checkpoint_dir=tmp_path / "run")
    finished = inference.run(jax.random.key(0), *data, checkpoint_dir=tmp_path / "run")
    for other in (stopped, finished):
        assert other.rows.integrals == posterior.rows.integrals
        again, before = (p.sample_rows(key, [1], (50,)) for p in (other, posterior))
        np.testing.assert_array_equal(again["effect"], before["effect"])


def chained(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        mean = jnp.cumsum(effect) + x[index] @ slopes
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y[index])


def summed(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        effect = numpyro.sample("effect", dist.Normal(x[index] @ slopes, 1.0))
        numpyro.sample("y", dist.Normal(effect, 1.0), obs=y[index])
    numpyro.factor("sum_to_zero", -0.5 * effect.sum() ** 2)


def discrete(x, y):
    numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        group = numpyro.sample("group", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(group, 1.0), obs=y[index])


def group_of_all(x, y):
    group = numpyro.sample("group", dist.Bernoulli(0.5))
    numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        effect = numpyro.sample("effect", dist.Normal(group, 1.0))
        numpyro.sample("y", dist.Normal(effect, 1.0), obs=y[index])


def no_latents(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        numpyro.sample("y", dist.Normal(x[index] @ slopes, 1.0), obs=y[index])


NO_ENCODER = (
    "encoder: expected a model with latent sites inside a subsampled plate, got one without; "
    "leave encoder out"
)
MESSAGES = [
    (
        chained,
        None,
        "latent sites 'effect' of plate 'rows': expected those of one row to act on that row "
        "alone, got an effect on other rows; leave subsample_size out",
    ),
    (
        summed,
        None,
        "latent sites 'effect' of plate 'rows': expected those of one row to act on that row "
        "alone, got an effect on sites outside the plate; leave subsample_size out",
    ),
    (
        discrete,
        None,
        "site 'group': expected continuous latent sites inside the subsampled plate 'rows', got a "
        "discrete one; sum it out by hand (dist.MixtureSameFamily), or leave subsample_size out",
    ),
    (
        group_of_all,
        None,
        "discrete latent sites 'group': expected none beside latent sites inside a subsampled "
        "plate ('effect'), got some; sum them out by hand (dist.MixtureSameFamily)",
    ),
    (no_latents, lambda x, y: x, NO_ENCODER),
    (
        linear,
        lambda x, y: y,
        "encoder: expected features of shape (h,) of one row, got ()",
    ),
    (
        linear,
        lambda x: x,
        "encoder: expected a function of one row's entries (2, scalar), got an error from it: "
        "<lambda>() takes 1 positional argument but 2 were given",
    ),
]


@pytest.mark.parametrize(("model", "encoder", "message"), MESSAGES)
def test_messages(model, encoder, message, data, key):
    with pytest.raises(ConfigError) as error:
        Inference(model, encoder=encoder).run(key, *data)
    assert message in str(error.value)


def test_message_of_data_that_no_encoder_sees(data, key):
    x, y = jax.tree.map(jnp.asarray, data)

    def closed():
        linear(x, y)

    with pytest.raises(ConfigError) as error:
        Inference(closed).run(key)
    assert str(error.value) == (
        "latent sites inside the subsampled plate 'rows': expected data of 300 rows among the "
        "model's arguments, for an encoder to see, got none; pass them to run instead of closing "
        "over them"
    )


def test_messages_of_settings():
    for settings, message in (
        ({"row_draws": 24}, "row_draws: expected a power of two above 1, got 24"),
        ({"encoder": 3}, "encoder: expected a function, got int"),
    ):
        with pytest.raises(ConfigError) as error:
            Inference(linear, **settings)
        assert str(error.value) == message
    with pytest.raises(ConfigError) as error:
        Inference(lambda z: -z @ z, dim=2, encoder=lambda x: x).run(jax.random.key(0))
    assert str(error.value) == NO_ENCODER


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([-1, 2], "rows: expected indices from 0 to 299, got -1 to 2"),
        ([300], "rows: expected indices from 0 to 299, got 300 to 300"),
        (0.5, "rows: expected a list of indices, got float64 of shape ()"),
    ],
)
def test_messages_of_rows(rows, message, posterior, key):
    with pytest.raises(ConfigError) as error:
        posterior.sample_rows(key, rows, (2,))
    assert str(error.value) == message


def test_message_of_a_model_without_such_sites(key):
    found = Inference(lambda z: -0.5 * z @ z, dim=2, method="gaussian").run(key)
    with pytest.raises(ConfigError) as error:
        found.sample_rows(key, [0])
    assert str(error.value) == (
        "sample_rows: expected a model with latent sites inside a subsampled plate, got one "
        "without; use sample"
    )
