import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow

from avb._types import Key
from avb.densities import (
    AbstractDensity,
    DefensiveMixture,
    DiagonalGaussian,
    FlowDensity,
    FullGaussian,
    GaussianMixture,
    PriorDensity,
)
from avb.densities._scale import (
    LOG_SCALE_MAX,
    LOG_SCALE_MIN,
    bounded_log_scale,
    bounded_scale,
)
from avb.posteriors import FullGaussianPosterior

DRAWS = 20_000
TRIL = jnp.array([[0.8, 0.0], [-0.5, 0.4]])
LOC = jnp.array([0.3, -0.7])
STACKED = DiagonalGaussian(
    jnp.array([[-1.0, 0.0], [1.0, 0.5], [0.2, -1.5]]),
    jnp.log(jnp.array([[0.3, 0.5], [0.6, 0.4], [0.5, 0.7]])),
)


def flow_density() -> FlowDensity:
    flow = coupling_flow(
        jax.random.key(1),
        base_dist=Normal(jnp.zeros(2)),
        cond_dim=3,
        flow_layers=2,
        nn_width=8,
    )
    # Fresh coupling layers are close to the identity; larger weights bend the density.
    parameters, static = eqx.partition(flow, eqx.is_inexact_array)
    bent = jax.tree.map(lambda leaf: 1.5 * leaf, parameters)
    condition = jnp.array([0.5, -1.0, 2.0])
    base = DiagonalGaussian(LOC, jnp.log(jnp.array([0.8, 0.5])))
    return FlowDensity(base, eqx.combine(bent, static), condition)


DENSITIES: dict[str, AbstractDensity] = {
    "diagonal": DiagonalGaussian(LOC, jnp.log(jnp.array([0.4, 0.9]))),
    "diagonal, d = 1": DiagonalGaussian(jnp.array([0.4]), jnp.log(jnp.array([0.7]))),
    "full": FullGaussian(LOC, TRIL),
    "full, d = 1": FullGaussian(jnp.array([0.4]), jnp.array([[0.7]])),
    "mixture": GaussianMixture(STACKED),
    "mixture, d = 1": GaussianMixture(jax.tree.map(lambda leaf: leaf[:, :1], STACKED)),
    "defensive": DefensiveMixture(GaussianMixture(STACKED), GaussianMixture(STACKED).moments()),
    "prior": PriorDensity(dist.Normal(LOC, jnp.array([0.5, 0.8])).to_event(1)),
    "flow": flow_density(),
}
# The flow's draws have no moments in closed form, and its frame is only roughly theirs.
WITH_MOMENTS = {name: density for name, density in DENSITIES.items() if name != "flow"}


def grid(dim: int) -> tuple[jax.Array, float]:
    """Points of a grid over [−7, 7]^d, and the volume of its cells."""
    count = 2001 if dim == 1 else 281
    axis = jnp.linspace(-7.0, 7.0, count)
    points = jnp.stack(jnp.meshgrid(*[axis] * dim), axis=-1).reshape(-1, dim)
    return points, float(axis[1] - axis[0]) ** dim


def dimension(density: AbstractDensity) -> int:
    return density.sample(jax.random.key(0)).shape[0]


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())
def test_density_integrates_to_one(density):
    points, volume = grid(dimension(density))
    log_probs = jax.vmap(density.log_prob)(points)
    total = np.sum(np.exp(np.asarray(log_probs, np.float64))) * volume
    np.testing.assert_allclose(total, 1.0, atol=1e-3)


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())
def test_draws_have_the_moments_of_the_density(density, key):
    dim = dimension(density)
    draws = np.asarray(jax.vmap(density.sample)(jax.random.split(key, DRAWS)), np.float64)
    points, volume = grid(dim)
    weights = np.exp(np.asarray(jax.vmap(density.log_prob)(points), np.float64)) * volume
    points = np.asarray(points, np.float64)
    for power in (1, 2):
        expected = weights @ points**power
        got = draws**power
        error = got.std(axis=0) / np.sqrt(DRAWS)
        np.testing.assert_array_less(np.abs(got.mean(axis=0) - expected), 5 * error + 1e-3)
    if dim == 2:
        products = draws[:, 0] * draws[:, 1]
        expected = weights @ (points[:, 0] * points[:, 1])
        assert abs(products.mean() - expected) < 5 * products.std() / np.sqrt(DRAWS) + 1e-3


@pytest.mark.parametrize("density", WITH_MOMENTS.values(), ids=WITH_MOMENTS.keys())
def test_whitened_draws_have_zero_mean_and_unit_variance(density, key):
    draws = jax.vmap(density.sample)(jax.random.split(key, DRAWS))
    white = np.asarray(jax.vmap(density.whiten)(draws), np.float64)
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=5 / np.sqrt(DRAWS))
    np.testing.assert_allclose(white.var(axis=0), 1.0, atol=5 * np.sqrt(2 / DRAWS))


@pytest.mark.parametrize("name", ["full", "mixture", "defensive"])
def test_full_covariances_whiten_correlations(name, key):
    density = DENSITIES[name]
    draws = jax.vmap(density.sample)(jax.random.split(key, DRAWS))
    white = np.asarray(jax.vmap(density.whiten)(draws), np.float64)
    assert abs(np.mean(white[:, 0] * white[:, 1])) < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())
def test_whitening_is_affine_and_invertible(density):
    dim = dimension(density)
    zero, slopes = jnp.zeros(dim), jax.jacobian(density.whiten)
    np.testing.assert_allclose(slopes(zero), slopes(zero + 3.0), rtol=1e-6)
    assert abs(np.linalg.det(slopes(zero))) > 1e-3


def test_full_gaussian_is_numpyros(key):
    points = 2.0 * jax.random.normal(key, (50, 2))
    # numpyro itself broadcasts arrays of different rank here.
    with jax.numpy_rank_promotion("allow"):
        expected = dist.MultivariateNormal(LOC, scale_tril=TRIL).log_prob(points)
    got = jax.vmap(FullGaussian(LOC, TRIL).log_prob)(points)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_full_gaussian_posterior_starts_without_correlations(key):
    dim = 64
    posterior = FullGaussianPosterior(jnp.ravel, data_shape=(8,), latent_dim=dim, key=key)
    density = posterior.density(jnp.linspace(-2.0, 2.0, 8))
    np.testing.assert_array_equal(density.scale_tril, jnp.diag(jnp.diagonal(density.scale_tril)))
    assert np.ptp(jnp.diagonal(density.scale_tril)) > 0
    assert np.ptp(density.loc) > 0


def test_mixture_is_numpyros(key):
    points = 2.0 * jax.random.normal(key, (50, 2))
    components = dist.Normal(STACKED.loc, jnp.exp(STACKED.log_scale)).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=jnp.full(3, 1 / 3)), components)
    with jax.numpy_rank_promotion("allow"):
        expected = mixture.log_prob(points)
    got = jax.vmap(GaussianMixture(STACKED).log_prob)(points)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("raw", [-1e6, -100.0, 0.0, 100.0, 1e6])
@pytest.mark.parametrize("bounded", [bounded_log_scale, bounded_scale])
def test_bounded_scale_is_finite_with_a_finite_gradient(bounded, raw):
    value, slope = jax.value_and_grad(bounded)(jnp.asarray(raw))
    log_scale = value if bounded is bounded_log_scale else jnp.log(value)
    # The upper clip pulls the lower limit down by log(1 + exp(−11)).
    lowest = LOG_SCALE_MAX - jax.nn.softplus(LOG_SCALE_MAX - LOG_SCALE_MIN)
    assert lowest - 1e-6 <= log_scale <= LOG_SCALE_MAX + 1e-6
    assert jnp.isfinite(slope)
    assert slope >= 0


def test_bounded_log_scale_increases():
    values = bounded_log_scale(jnp.linspace(-12.0, 8.0, 201))
    assert jnp.all(jnp.diff(values) > 0)


@pytest.mark.parametrize("raw", [-1e6, 1e6])
def test_log_density_is_finite_at_the_bounds_of_the_scale(raw):
    def log_prob(raw, z):
        return DiagonalGaussian(jnp.zeros(1), bounded_log_scale(raw)).log_prob(z)

    value, slopes = jax.value_and_grad(log_prob, (0, 1))(jnp.array([raw]), jnp.array([3.0]))
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("name", ["mixture", "defensive"])
def test_mixture_far_from_all_components_is_finite(name):
    value, slope = jax.value_and_grad(DENSITIES[name].log_prob)(jnp.full(2, 1e3))
    assert jnp.isfinite(value)
    assert jnp.isfinite(slope).all()


def test_sample_depends_on_the_key_alone(key: Key):
    for density in DENSITIES.values():
        first, again = density.sample(key), density.sample(key)
        other = density.sample(jax.random.fold_in(key, 1))
        assert jnp.array_equal(first, again)
        assert not jnp.array_equal(first, other)


def test_defensive_mixture_bounds_minus_log_density_by_its_wide_half(key):
    density = DENSITIES["defensive"]
    points = 5.0 * jax.random.normal(key, (100, 2))
    got = jax.vmap(density.log_prob)(points)
    wide = jax.vmap(density.wide.log_prob)(points)
    assert jnp.all(got >= wide - jnp.log(2.0) - 1e-5)
