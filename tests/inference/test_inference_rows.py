"""Models that see minibatches: rows of mapped files, exact sums over them, posteriors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from avb import ConfigError, Inference
from avb.inference import load
from avb.inference._expansion import Centres, Corrected, Expansion, expand
from avb.inference._find_source import RowSettings, find_source
from avb.inference._passes import expand_all, log_densities
from avb.inference._source import Batch, Source

ROWS, BATCH = 2_530, 100
SLOPES = np.array([0.7, -1.2])
NOISE = 0.5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2)).astype(np.float32)
    y = (x @ SLOPES + NOISE * rng.normal(size=ROWS)).astype(np.float32)
    folder = tmp_path_factory.mktemp("rows")
    for name, array in (("x", x), ("y", y)):
        np.save(folder / f"{name}.npy", array)
    return tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))


def linear(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        mean = numpyro.deterministic("mean", x[index] @ slopes)
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y[index])


def poisson(x, y):
    """Not quadratic, with counts made of the outcomes; rows by numpyro.subsample."""
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", ROWS, subsample_size=BATCH):
        rows = numpyro.subsample(x, event_dim=1)
        counts = jnp.floor(jnp.abs(numpyro.subsample(y, event_dim=0)))
        numpyro.sample("y", dist.Poisson(jnp.exp(rows @ slopes)), obs=counts)


def poisson_log_density(x, y, z):
    x, y = np.asarray(x, np.float64), np.floor(np.abs(np.asarray(y)))
    return st.poisson.logpmf(y, np.exp(x @ z)).sum() + st.norm.logpdf(z).sum()


@pytest.fixture(scope="module")
def source(files) -> Source:
    found = find_source(poisson, files, {}, {}, RowSettings())
    assert found is not None
    return found


CENTRES = Centres(jnp.asarray([[0.3, -0.4]]), 20.0 * jnp.eye(2)[None])
POINTS = np.array([[0.3, -0.4], [0.35, -0.5], [0.1, -0.3]], np.float32)


def test_partition_holds_each_row_and_the_prior_once(source, files):
    assert ROWS % BATCH != 0
    whole = expand_all(source, CENTRES)
    truth = poisson_log_density(*files, np.asarray(CENTRES.loc[0], np.float64))
    assert whole.value[0] == pytest.approx(truth, rel=1e-9)
    total = sum(np.sum(weights) for _, weights in source.partition())
    assert total == pytest.approx(1.0, abs=1e-12)


def test_log_densities_are_those_of_all_rows(source, files, key):
    whole = expand_all(source, CENTRES)
    found = log_densities(source, CENTRES, whole, jnp.asarray(POINTS), key)
    truth = [poisson_log_density(*files, z.astype(np.float64)) for z in POINTS]
    np.testing.assert_allclose(found.values, truth, rtol=1e-9)
    assert found.rows == ROWS
    assert not found.errors.any()


def test_log_densities_from_some_of_the_rows_know_their_error(source, files, key, monkeypatch):
    monkeypatch.setattr("avb.inference._passes.MEASURED_ROWS", 1000)
    whole = expand_all(source, CENTRES)
    truth = np.array([poisson_log_density(*files, z.astype(np.float64)) for z in POINTS])
    found = [
        log_densities(source, CENTRES, whole, jnp.asarray(POINTS), k)
        for k in jax.random.split(key, 20)
    ]
    off = np.stack([f.values for f in found]) - truth
    error = np.sqrt(np.mean(np.stack([f.errors for f in found]) ** 2, axis=0))
    assert found[0].rows == 1000
    np.testing.assert_allclose(off[:, 0], 0.0, atol=1e-6)
    spread = np.std(off[:, 1:], axis=0, ddof=1)
    # The sd of 20 normal values is within 60% of the truth with probability 0.9999.
    np.testing.assert_allclose(spread / error[1:], 1.0, atol=0.6)
    assert np.all(np.abs(off[:, 1:].mean(0)) < 4 * error[1:] / math.sqrt(20))


def test_expansions_take_the_noise_out(source, files):
    whole = jax.tree.map(jnp.asarray, expand_all(source, CENTRES))
    rows = source.random(np.random.default_rng(1), 400)
    z = CENTRES.loc[0] + jnp.asarray([0.02, -0.03])
    estimate = source.estimate.log_density

    def both(batch: Batch):
        one = jax.tree.map(lambda leaf: leaf[None], batch)
        raw = Corrected.raw(source.arrays, one, 2)
        corrected = raw.at(estimate, CENTRES, jax.tree.map(lambda a: a.astype(jnp.float32), whole))
        return raw.log_density(estimate, z), corrected.log_density(estimate, z)

    raw, corrected = jax.lax.map(jax.jit(both), jax.tree.map(jnp.asarray, rows))
    truth = poisson_log_density(*files, np.asarray(z, np.float64))
    error = float(np.std(raw)) / math.sqrt(400)
    assert abs(float(np.mean(raw)) - truth) < 4 * error
    assert abs(float(np.mean(corrected)) - truth) < 4 * float(np.std(corrected)) / 20 + 2e-3
    assert float(np.std(corrected)) < 1e-3 * float(np.std(raw))


def test_expansion_of_a_quadratic_is_the_quadratic():
    matrix = jnp.asarray([[2.0, 0.3], [0.3, 1.0]])
    centres = Centres(jnp.asarray([[1.0, 2.0], [-3.0, 0.5]]), jnp.stack([jnp.eye(2)] * 2))
    found = expand(lambda z: -0.5 * z @ matrix @ z, centres)
    z = jnp.asarray([0.2, 0.9])
    for centre in (0, 1):
        value = found.value[centre] + found.above_value(
            jnp.asarray(centre), z - centres.loc[centre]
        )
        assert float(value) == pytest.approx(float(-0.5 * z @ matrix @ z), rel=1e-5)
    assert int(centres.nearest(jnp.asarray([-2.0, 0.0]))) == 1
    assert Expansion.zero(2, 3).slope.shape == (2, 3)


@pytest.fixture(scope="module")
def inference() -> Inference:
    return Inference(linear, max_steps=500)


@pytest.fixture(scope="module")
def posterior(inference, files):
    return inference.run(jax.random.key(0), *files)


def exact(files):
    x, y = (np.asarray(a, np.float64) for a in files)
    precision = np.eye(2) + x.T @ x / NOISE**2
    mean = np.linalg.solve(precision, x.T @ y / NOISE**2)
    marginal = NOISE**2 * np.eye(ROWS) + x @ x.T
    _, log_det = np.linalg.slogdet(marginal)
    log_evidence = -0.5 * (
        y @ np.linalg.solve(marginal, y) + log_det + ROWS * math.log(2 * math.pi)
    )
    return mean, np.linalg.inv(precision), log_evidence


def test_linear_regression_against_its_closed_form(posterior, files, key):
    mean, covariance, log_evidence = exact(files)
    draws = 20_000
    sites = posterior.sample(key, (draws,))
    assert set(sites) == {"slopes"}
    z = np.asarray(sites["slopes"], np.float64)
    deviation = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose((z.mean(0) - mean) / deviation, 0.0, atol=4 / draws**0.5 + 0.01)
    np.testing.assert_allclose(z.std(0) / deviation, 1.0, atol=3 / draws**0.5 + 0.02)
    elbo = posterior.elbo
    assert elbo.lower - 3 * elbo.lower_error - 1e-3 <= log_evidence
    assert log_evidence <= elbo.upper + 3 * elbo.upper_error + 0.01
    assert posterior.importance.log_evidence == pytest.approx(log_evidence, abs=0.005)


def test_same_key_same_bits(inference, posterior, files, key):
    again = inference.run(jax.random.key(0), *files)
    np.testing.assert_array_equal(
        again.sample_unconstrained(key, (50,)), posterior.sample_unconstrained(key, (50,))
    )
    assert again.elbo == posterior.elbo


def test_saved_and_loaded(inference, posterior, files, key, tmp_path):
    posterior.save(tmp_path / "posterior.npz")
    loaded = load(tmp_path / "posterior.npz", inference, *files)
    np.testing.assert_array_equal(
        loaded.sample(key, (50,))["slopes"], posterior.sample(key, (50,))["slopes"]
    )
    with pytest.raises(ConfigError) as error:
        loaded.sample(key, (50,), resample=True)
    assert str(error.value) == (
        "log density: expected a model that sees all its 2530 rows, got one that sees 100; use "
        "the posterior that run gives"
    )


def test_arrays_in_memory_are_gathered_by_the_model(source, files):
    """The same batches give the same numbers, wherever the rows lie."""

    def indexed(x, y):
        slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        with numpyro.plate("rows", ROWS, subsample_size=BATCH) as index:
            counts = jnp.floor(jnp.abs(y[index]))
            numpyro.sample("y", dist.Poisson(jnp.exp(x[index] @ slopes)), obs=counts)

    held = find_source(indexed, (np.array(files[0]), files[1]), {}, {}, RowSettings())
    assert held is not None
    assert [array.shape for array in held.arrays] == [(ROWS, 2)]
    assert len(held.mapped) == 1
    first, second = (expand_all(s, CENTRES) for s in (source, held))
    np.testing.assert_allclose(first.value, second.value, rtol=1e-12)
    np.testing.assert_allclose(first.curvature, second.curvature, rtol=1e-9)


def test_pilot_has_no_row_twice(source):
    rows = source.pilot(np.random.default_rng(0)).index
    assert rows.shape == (25, BATCH)
    assert len(np.unique(rows)) == rows.size


WHOLE = (
    "memory-mapped argument of shape 2530×2: expected to be used by rows, got a use of all of it; "
    "index it with the indices of the subsampled plate or give it to numpyro.subsample there; pass "
    "np.asarray(array) for one that is needed whole"
)


def averaged(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        numpyro.sample("y", dist.Normal((x.mean(0) + x[index]) @ slopes, 1.0), obs=y[index])


def multiplied(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        numpyro.sample("y", dist.Normal(jnp.dot(x, slopes)[index], 1.0), obs=y[index])


def other_rows(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        numpyro.sample("y", dist.Normal(x[index + 1] @ slopes, 1.0), obs=y[index])


def wrong_axis(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH):
        rows = numpyro.subsample(x, event_dim=0)
        numpyro.sample("y", dist.Normal(rows @ slopes, 1.0), obs=numpyro.subsample(y, event_dim=0))


def two_plates(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    for name in ("rows", "others"):
        with numpyro.plate(name, len(y), subsample_size=BATCH) as index:
            numpyro.sample(f"y_{name}", dist.Normal(x[index] @ slopes, 1.0), obs=y[index])


def fewer(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", 1000, subsample_size=BATCH) as index:
        numpyro.sample("y", dist.Normal(x[index] @ slopes, 1.0), obs=y[index])


def looks(x, y, group):
    effects = numpyro.sample("effects", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=BATCH) as index:
        if group[index].max() > 1:
            return
        numpyro.sample("y", dist.Normal(effects[group[index]], 1.0), obs=y[index])


MESSAGES = [
    (averaged, WHOLE),
    (multiplied, WHOLE),
    (other_rows, WHOLE),
    (
        wrong_axis,
        "numpyro.subsample: expected event_dim = 1, so that the plate's rows are the first axis of "
        "a memory-mapped array, got 0",
    ),
    (two_plates, "subsampled plates: expected one, got 'rows', 'others'"),
    (
        fewer,
        "memory-mapped argument of shape 2530×2: expected the 1000 rows of plate 'rows'; index it "
        "with the indices of the subsampled plate or give it to numpyro.subsample there; pass "
        "np.asarray(array) for one that is needed whole",
    ),
]


@pytest.mark.parametrize(("model", "message"), MESSAGES)
def test_messages(model, message, files, key):
    with pytest.raises(ConfigError) as error:
        Inference(model).run(key, *files)
    assert str(error.value) == message


def test_message_of_a_model_that_looks_at_values(files, key):
    with pytest.raises(ConfigError) as error:
        Inference(looks).run(key, *files, np.zeros(ROWS, int))
    assert str(error.value) == (
        "model: expected one that does not look at the values of its arrays, which change from "
        "minibatch to minibatch; give sizes as numbers"
    )


def test_a_mapped_array_without_a_subsampled_plate_is_read_whole(files):
    def model(x):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal()), 1.0), obs=x.mean())

    target = Inference(model).target(files[0])
    expected = st.norm.logpdf(0.5) + st.norm.logpdf(np.mean(files[0]), 0.5, 1)
    assert float(target.log_density(jnp.asarray([0.5]))) == pytest.approx(expected, rel=1e-5)


def test_one_method_and_no_restarts(files, key):
    for settings, message in (
        ({"restarts": 2}, "restarts of a model with a subsampled plate: expected 1, got 2"),
        (
            {"method": "gaussian"},
            "method of a model with a subsampled plate: expected 'auto' or 'self', got 'gaussian'",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            Inference(linear, **settings).run(key, *files)
        assert str(error.value) == message
