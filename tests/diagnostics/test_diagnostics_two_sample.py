"""Two-sample checks against closed forms and plain NumPy."""

import json
import math

import jax
import numpy as np
import pytest
import scipy.stats
from scipy.special import gammaln

from avb import ConfigError, DataError
from avb.diagnostics import (
    c2st,
    compare_draws,
    energy_distance,
    mmd_test,
    mode_coverage,
    sliced_wasserstein,
)
from avb.diagnostics._draws import FARTHEST, pooled_and_scaled, scale_of
from avb.diagnostics._kernel import _gaussian, _minus_distance, unbiased_statistics
from seed import SEED

REPETITIONS = 200


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def keys(count: int):
    return jax.random.split(jax.random.key(SEED), count)


def shifted(rng, count: int, dim: int, shift: float = 0.0) -> np.ndarray:
    """Standard normal draws, moved along the first coordinate."""
    return rng.normal(size=(count, dim)) + shift * np.eye(dim)[:1]


# --- Classifier ---


@pytest.mark.parametrize("classifier", ["boosting", "logistic"])
def test_c2st_of_equal_distributions_is_a_half(classifier, rng):
    result = c2st(
        shifted(rng, 1000, 3), shifted(rng, 2000, 3), key=keys(1)[0], classifier=classifier
    )
    assert abs(result.accuracy - 0.5) < 4 * result.standard_error
    # The t band leaves out one in twenty; four and a half of its quarters are one in 10^4.
    centre, reach = result.null_mean, result.null_band[1] - result.null_mean
    assert abs(result.accuracy - centre) < 2.2 * reach
    assert result.size == 1000


def test_c2st_of_shifted_gaussians_is_the_bayes_rate(rng):
    shift = 1.0
    bayes = scipy.stats.norm.cdf(shift / 2)
    draws, reference = shifted(rng, 4000, 2, shift), shifted(rng, 8000, 2)
    logistic = c2st(draws, reference, key=keys(1)[0], classifier="logistic")
    assert abs(logistic.accuracy - bayes) < 4 * logistic.standard_error
    boosting = c2st(draws, reference, key=keys(1)[0], repetitions=5)
    # No classifier beats the Bayes rate; trees fitted to 6,400 draws come within 2%.
    assert bayes - 0.02 - 4 * boosting.standard_error < boosting.accuracy
    assert boosting.accuracy < bayes + 4 * boosting.standard_error
    assert not logistic.inside
    assert not boosting.inside


def test_c2st_sees_a_correlation_that_a_linear_classifier_cannot(rng):
    reference = rng.normal(size=(4000, 2))
    draws = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=2000)
    assert c2st(draws, reference, key=keys(1)[0], repetitions=3).accuracy > 0.7
    linear = c2st(draws, reference, key=keys(1)[0], classifier="logistic")
    assert linear.accuracy < 0.55


def test_both_comparisons_of_c2st_have_the_same_size(rng, monkeypatch):
    sizes = []

    def accuracy(first, second, classifier, folds, seed):
        sizes.append((len(first), len(second)))
        return 0.5

    monkeypatch.setattr("avb.diagnostics._classifier._accuracy", accuracy)
    reference = rng.normal(size=(301, 2))
    for count, expected in ((400, 150), (63, 60)):
        sizes.clear()
        result = c2st(rng.normal(size=(count, 2)), reference, key=keys(1)[0], repetitions=4)
        assert sizes == [(expected, expected)] * 5
        assert result.size == expected


def test_halves_of_the_reference_are_disjoint(rng, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "avb.diagnostics._classifier._accuracy",
        lambda first, second, *_: seen.append((set(first[:, 0]), set(second[:, 0]))) or 0.5,
    )
    c2st(rng.normal(size=(100, 1)), rng.normal(size=(200, 1)), key=keys(1)[0], repetitions=3)
    assert all(not first & second for first, second in seen)
    assert len({frozenset(first) for first, _ in seen}) == 4


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        (c2st, {"repetitions": 3, "max_draws": 40}),
        (mmd_test, {"permutations": 99, "max_draws": 60}),
        (energy_distance, {"permutations": 99, "max_draws": 60}),
        (sliced_wasserstein, {"permutations": 99, "max_draws": 60}),
    ],
)
def test_same_key_gives_the_same_numbers(function, settings, rng):
    draws, reference = rng.normal(size=(200, 2)), rng.normal(size=(300, 2))
    one, another = keys(2)
    first, second, other = (
        function(draws, reference, key=k, **settings) for k in (one, one, another)
    )
    assert first == second
    assert first != other


# --- Kernel tests ---


def plain_mmd(x: np.ndarray, y: np.ndarray, kernel) -> float:
    """The unbiased estimate by its definition."""
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    xy = sum(kernel(a, b) for a in x for b in y)
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (200, 120)])
def test_unbiased_statistics_are_those_of_a_double_loop(n, m, rng):
    pool = rng.normal(size=(n + m, 3))
    labels = np.stack([np.arange(n + m) < n, rng.permutation(n + m) < n], axis=1)
    for name, kernel, own in (
        (_gaussian, 0.8, lambda a, b: math.exp(-np.sum((a - b) ** 2) / (2 * 0.8**2))),
        (_minus_distance, 1.0, lambda a, b: -math.dist(a, b)),
    ):
        got = unbiased_statistics(pool, labels, name, kernel)
        expected = [plain_mmd(pool[label], pool[~label], own) for label in labels.T]
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_statistics_stay_exact_far_from_the_origin_and_with_outliers(rng):
    pool = rng.normal(size=(300, 2)) + 1e3
    pool[7] = FARTHEST
    labels = np.arange(300)[:, None] < 100
    kernel = lambda a, b: math.exp(-np.sum((a - b) ** 2) / 2)  # noqa: E731
    got = unbiased_statistics(pool, labels, _gaussian, 1.0)[0]
    assert abs(got - plain_mmd(pool[:100], pool[100:], kernel)) < 1e-5


def mean_kernel(variance: np.ndarray, mean: np.ndarray, bandwidth: float) -> float:
    """E k(a, b) for a − b Gaussian with a diagonal covariance and a Gaussian kernel."""
    wide = bandwidth**2 + variance
    return float(np.prod(np.sqrt(bandwidth**2 / wide) * np.exp(-(mean**2) / (2 * wide))))


def averaged(kernel, bandwidth: float, draw_pair) -> tuple[float, float]:
    """Mean and standard error of an unbiased statistic over repetitions, in original units."""
    values = []
    for _ in range(REPETITIONS):
        x, y = draw_pair()
        labels = np.arange(len(x) + len(y))[:, None] < len(x)
        values.append(unbiased_statistics(np.concatenate([x, y]), labels, kernel, bandwidth)[0])
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(REPETITIONS))


def test_mmd_of_gaussians_is_its_closed_form(rng):
    dim, bandwidth = 3, 1.3
    mean, sd = np.array([0.7, 0.0, -0.3]), np.array([1.0, 1.8, 0.5])
    got, error = averaged(
        _gaussian,
        bandwidth,
        lambda: (mean + sd * rng.normal(size=(60, dim)), rng.normal(size=(90, dim))),
    )
    expected = (
        mean_kernel(2 * sd**2, np.zeros(dim), bandwidth)
        + mean_kernel(np.full(dim, 2.0), np.zeros(dim), bandwidth)
        - 2 * mean_kernel(1 + sd**2, mean, bandwidth)
    )
    assert abs(got - expected) < 4 * error
    assert error < 0.05 * expected


def mean_distance(shift: float) -> float:
    """E|a − b| for independent a from N(shift, 1) and b from N(0, 1)."""
    within = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4)
    return within + shift * (1 - 2 * scipy.stats.norm.cdf(-shift / math.sqrt(2)))


def test_energy_distance_of_shifted_gaussians_is_its_closed_form(rng):
    got, error = averaged(
        _minus_distance, 1.0, lambda: (rng.normal(size=(60, 1)) + 1, rng.normal(size=(90, 1)))
    )
    expected = 2 * mean_distance(1) - 2 * mean_distance(0)
    assert abs(got - expected) < 4 * error
    assert error < 0.05 * expected


def test_values_are_in_units_of_the_pool(rng):
    """Multiplying and moving coordinates changes neither values nor p-values."""
    draws, reference = shifted(rng, 90, 2, 0.5), rng.normal(size=(60, 2))
    factors, offsets = np.array([1e3, 1e-3]), np.array([5.0, -70.0])
    for test in (mmd_test, energy_distance, sliced_wasserstein):
        first = test(draws, reference, key=keys(1)[0])
        second = test(draws * factors + offsets, reference * factors + offsets, key=keys(1)[0])
        assert first.p_value == second.p_value
        np.testing.assert_allclose(first.value, second.value, rtol=1e-4)
    expected = plain_mmd(
        *np.split(pooled_and_scaled(draws, reference), [90]), lambda a, b: -math.dist(a, b)
    )
    got = energy_distance(draws, reference, key=keys(1)[0]).value
    np.testing.assert_allclose(got, expected, atol=1e-6)


# --- Sliced Wasserstein ---


@pytest.mark.parametrize(("n", "m"), [(80, 80), (70, 120)])
def test_wasserstein_in_one_dimension_is_scipys(n, m, rng):
    draws, reference = rng.gamma(2, size=(n, 1)), rng.normal(size=(m, 1))
    result = sliced_wasserstein(draws, reference, key=keys(1)[0])
    scaled = pooled_and_scaled(draws, reference)[:, 0]
    expected = scipy.stats.wasserstein_distance(scaled[:n], scaled[n:])
    np.testing.assert_allclose(result.value, expected, rtol=1e-5)
    assert result.detail == "order 1, 1 directions, in pooled standard deviations"


def test_wasserstein_of_shifted_gaussians_is_its_closed_form(rng):
    dim, shift, count, directions = 4, 3.0, 2000, 400
    result = sliced_wasserstein(
        shifted(rng, count, dim, shift),
        shifted(rng, count, dim),
        key=keys(1)[0],
        directions=directions,
        permutations=19,
    )
    scaled_shift = shift / math.sqrt(1 + shift**2 / 4)
    mean_cosine = math.exp(gammaln(dim / 2) - gammaln((dim + 1) / 2)) / math.sqrt(math.pi)
    # E cos² = 1/d; and the difference of two means of n draws is known to √(2 / n).
    over_directions = math.sqrt((1 / dim - mean_cosine**2) / directions) * scaled_shift
    error = math.hypot(over_directions, math.sqrt(2 / count))
    assert abs(result.value - scaled_shift * mean_cosine) < 4 * error
    assert result.p_value == 1 / 20


# --- Permutation p-values ---


def heavy_tailed(rng, count: int) -> np.ndarray:
    return rng.standard_cauchy(size=(count, 2))


def correlated(rng, count: int) -> np.ndarray:
    return rng.multivariate_normal([0, 5], [[1, 0.9], [0.9, 1]], size=count)


@pytest.mark.parametrize("sample", [correlated, heavy_tailed])
@pytest.mark.parametrize("test", [mmd_test, energy_distance, sliced_wasserstein])
def test_p_values_are_uniform_under_equal_distributions(test, sample, rng):
    permutations = 99
    p_values = np.array(
        [
            test(sample(rng, 30), sample(rng, 50), key=key, permutations=permutations).p_value
            for key in keys(REPETITIONS)
        ]
    )
    # Exact p-values are uniform on 1/100, …, 1; spread over their steps they are continuous.
    continuous = p_values - rng.random(REPETITIONS) / (permutations + 1)
    # By chance, one in ten thousand.
    assert scipy.stats.kstest(continuous, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("test", [mmd_test, energy_distance, sliced_wasserstein])
def test_differences_are_found(test, rng):
    wide = 1.5 * rng.normal(size=(500, 2))
    result = test(wide, rng.normal(size=(500, 2)), key=keys(1)[0], permutations=199)
    assert result.p_value == 1 / 200
    assert result.value > result.null_quantile
    assert (result.draws, result.reference, result.permutations) == (500, 500, 199)


# --- Modes ---

CENTRES = 4.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])


def four_modes(rng, count: int, shares) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.choice(4, size=count, p=shares)
    return CENTRES[labels] + rng.normal(size=(count, 2)), labels


def test_a_missing_mode_is_counted(rng):
    reference, labels = four_modes(rng, 4000, [0.4, 0.3, 0.2, 0.1])
    sound, _ = four_modes(rng, 2000, [0.4, 0.3, 0.2, 0.1])
    broken, _ = four_modes(rng, 2000, [0.4, 0.0, 0.3, 0.3])
    for given in ({"modes": CENTRES}, {"labels": labels}):
        result = mode_coverage(sound, reference, **given)
        assert result.missed == 0
        assert np.all(np.abs(result.shares - result.reference_shares) < 4 * result.errors)
        assert result.p_value > 1e-4
        result = mode_coverage(broken, reference, **given)
        assert result.missed == 1
        assert result.shares[1] < 0.01
        np.testing.assert_allclose(result.total_variation, 0.3, atol=4 * math.sqrt(0.5 / 2000))
        assert result.p_value < 1e-10


def test_errors_of_shares_are_binomial(rng):
    reference = np.repeat([[-3.0], [3.0]], [30, 70], axis=0) + rng.normal(size=(100, 1)) / 9
    draws = np.repeat([[-3.0], [3.0]], [20, 20], axis=0)
    result = mode_coverage(draws, reference, modes=[[-3.0], [3.0]])
    np.testing.assert_allclose(result.shares, [0.5, 0.5])
    np.testing.assert_allclose(result.reference_shares, [0.3, 0.7])
    np.testing.assert_allclose(result.errors, np.sqrt(0.25 / 40 + 0.21 / 100))


# --- All at once ---


def test_comparison_in_units_of_the_reference(rng):
    sd = np.array([2.0, 0.1])
    reference = 3 + sd * rng.normal(size=(1000, 2))
    draws = 3 + sd * (np.array([0.5, 0.0]) + np.array([1.0, 2.0]) * rng.normal(size=(500, 2)))
    result = compare_draws(draws, reference, key=keys(1)[0], names=["a", "b"])
    marginals = result.marginals
    assert marginals.names == ("a", "b")
    assert np.all(np.abs(marginals.mean - [0.5, 0.0]) < 4 * marginals.mean_error)
    error = np.sqrt(1 / 1000 + np.array([1, 4]) / 500)
    np.testing.assert_allclose(marginals.mean_error, error, rtol=0.15)
    assert np.all(np.abs(marginals.deviation - [0, 1]) < 4 * error)
    normal = scipy.stats.norm.ppf(marginals.levels)[:, None]
    expected = np.hstack([0.5 + 0 * normal, normal])
    # The standard error of a 5% quantile of normal draws is 2.1 / √n.
    assert np.all(np.abs(marginals.quantile - expected) < 4 * 2.1 * error)
    assert not result.classifier.inside
    assert result.modes is None
    assert result.mmd.p_value == result.energy.p_value == 0.001


def test_comparison_is_ready_for_json(rng):
    draws, reference = rng.normal(size=(50, 2)), rng.normal(size=(100, 2))
    modes = [[-1.0, 0.0], [1.0, 0.0]]
    result = compare_draws(draws, reference, key=keys(1)[0], modes=modes).as_dict()
    assert json.loads(json.dumps(result)) == {**result, "classifier": {
        **result["classifier"], "null_band": list(result["classifier"]["null_band"])}}  # fmt: skip
    assert result["marginals"]["names"] == ["z[0]", "z[1]"]
    assert len(result["modes"]["shares"]) == 2
    parts = {"classifier", "mmd", "energy", "wasserstein", "marginals", "modes"}
    assert set(result) == parts


def test_scale_is_robust_only_where_tails_decide(rng):
    normal = 5 + 2 * rng.normal(size=10_000)
    cauchy = 5 + 2 * rng.standard_cauchy(size=10_000)
    spike = np.where(np.arange(10_000) < 9000, 0.0, normal)
    exploded = np.where(np.arange(10_000) < 3, 1e300, normal)
    scale = scale_of(np.stack([normal, cauchy, spike, exploded], axis=1))
    np.testing.assert_allclose(scale.scale[:2], [2, 4 / 1.349], rtol=0.1)
    np.testing.assert_allclose(scale.centre[[0, 1, 3]], 5, atol=0.2)
    np.testing.assert_allclose(scale.scale[2], spike.std())
    np.testing.assert_allclose(scale.scale[3], 2, rtol=0.1)


def test_exploding_draws_are_told_not_hidden(rng):
    reference = rng.normal(size=(400, 2))
    draws = rng.normal(size=(200, 2))
    draws[:20] *= 1e200
    result = compare_draws(draws, reference, key=keys(1)[0])
    assert result.energy.p_value < 0.01
    assert result.wasserstein.p_value < 0.01
    assert np.all(np.isfinite(result.marginals.mean))


# --- Messages ---


def two(rng, *, draws=(30, 2), reference=(60, 2)) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=draws), rng.normal(size=reference)


@pytest.mark.parametrize("function", [c2st, mmd_test, energy_distance, sliced_wasserstein])
def test_messages_about_the_arrays(function, rng):
    def message(draws, reference) -> str:
        with pytest.raises(DataError) as error:
            function(draws, reference, key=keys(1)[0])
        return str(error.value)

    draws, reference = two(rng)
    assert message(draws[:, 0], reference) == "draws: expected shape (n, d), got (30,)"
    assert message(draws[:5], reference) == "draws: expected at least 20 draws, got 5"
    assert message(draws[:, :1], reference) == (
        "dimensions of the draws: expected 2 as in the reference, got 1"
    )
    broken = draws.copy()
    broken[:3, 0] = np.nan
    assert message(broken, reference) == (
        "draws: expected finite numbers, got NaN or infinity in 3 of 30 draws; drop these draws, "
        "and count them against the sampler"
    )
    assert message(draws, reference * [1, 0]) == (
        "reference: expected every coordinate to vary, got a constant in coordinate 1; leave it "
        "out of both arrays"
    )


def test_messages_about_settings(rng):
    draws, reference = two(rng)

    def message(kind, function, **settings) -> str:
        with pytest.raises(kind) as error:
            function(draws, reference, **settings)
        return str(error.value)

    key = keys(1)[0]
    assert message(ConfigError, c2st, key=key, classifier="forest") == (
        "classifier: expected 'boosting' or 'logistic', got 'forest'"
    )
    assert message(ConfigError, c2st, key=key, folds=1) == "folds: expected at least 2, got 1"
    assert message(ConfigError, c2st, key=key, repetitions=2) == (
        "repetitions: expected at least 3, got 2"
    )
    assert message(ConfigError, c2st, key=key, max_draws=19) == (
        "max_draws: expected at least 20, got 19"
    )
    assert message(ConfigError, mmd_test, key=key, permutations=18) == (
        "permutations: expected at least 19, got 18"
    )
    assert message(ConfigError, mmd_test, key=key, max_draws=10) == (
        "max_draws: expected at least 20, got 10"
    )
    assert message(ConfigError, mmd_test, key=key, bandwidth=0.0) == (
        "bandwidth: expected a positive number, got 0.0"
    )
    assert message(ConfigError, sliced_wasserstein, key=key, directions=0) == (
        "directions: expected at least 1, got 0"
    )
    assert message(ConfigError, compare_draws, key=key, names=["a"]) == (
        "number of names: expected 2, got 1"
    )
    assert message(ConfigError, mode_coverage) == (
        "mode coverage: expected either modes or labels of the reference draws"
    )
    assert message(DataError, mode_coverage, modes=[1.0, 2.0]) == (
        "modes: expected shape (k, 2), got (2,)"
    )
    assert message(DataError, mode_coverage, modes=[[np.nan, 2.0]]) == (
        "modes: expected finite numbers, got NaN or infinity"
    )
    assert message(DataError, mode_coverage, labels=np.zeros(30, int)) == (
        "labels: expected shape (60,), got (30,)"
    )
    assert message(DataError, mode_coverage, labels=np.zeros(60)) == (
        "labels: expected integers from 0, one a reference draw"
    )


def test_short_references_have_no_null_band(rng):
    with pytest.raises(DataError) as error:
        c2st(*two(rng, reference=(30, 2)), key=keys(1)[0])
    assert str(error.value) == (
        "reference: expected at least 40 draws, two halves for the null band, and half as many "
        "draws; got 30 and 30"
    )
