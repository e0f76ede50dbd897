"""Log densities of NumPyro models, and what a user is told of those that cannot be inferred."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam

from avb import ConfigError, Inference
from avb.inference._target import check_starts

Y = np.array([1.0, 2.5, 0.3], np.float32)


def value(model, z, *args, **kwargs) -> float:
    target = Inference(model).target(*args, **kwargs)
    return float(target.log_density(jnp.asarray(z, jnp.float32)))


def positive_mean(y):
    rate = numpyro.sample("rate", dist.Exponential(2.0))
    numpyro.sample("y", dist.Normal(rate, 1.0), obs=y)


def test_density_has_the_jacobian():
    rate = np.exp(0.3)
    expected = st.expon.logpdf(rate, scale=0.5) + 0.3 + st.norm.logpdf(Y, rate, 1).sum()
    assert value(positive_mean, [0.3], Y) == pytest.approx(expected, rel=1e-5)


def test_masks_factors_and_improper_priors():
    def model(y):
        mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        seen = ~jnp.isnan(y)
        with handlers.mask(mask=seen):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=jnp.where(seen, y, 0.0))
        numpyro.factor("extra", -3.0 * mean)

    y = np.array([1.0, np.nan, 2.0], np.float32)
    expected = st.norm.logpdf([1.0, 2.0], 0.5, 1).sum() - 1.5
    assert value(model, [0.5], y) == pytest.approx(expected, rel=1e-5)


def test_reparametrised_sites_come_back_by_their_names():
    @handlers.reparam(config={"x": LocScaleReparam(0.0)})
    def model():
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("x", dist.Normal(0.0, scale))

    target = Inference(model).target()
    z = jnp.asarray([0.2, -0.4])
    sites = target.constrain(z)
    assert set(sites) == {"scale", "x", "x_decentered"}
    assert float(sites["x"]) == pytest.approx(
        float(sites["scale"] * sites["x_decentered"]), rel=1e-6
    )


def test_discrete_latents_are_summed_out():
    pytest.importorskip("funsor")

    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(y)):
            side = numpyro.sample("side", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mean + 2.0 * side, 1.0), obs=y)

    both = 0.7 * st.norm.pdf(Y, 0.5, 1) + 0.3 * st.norm.pdf(Y, 2.5, 1)
    expected = st.norm.logpdf(0.5) + np.log(both).sum()
    with jax.numpy_rank_promotion("allow"):  # funsor needs it
        assert value(model, [0.5], Y) == pytest.approx(expected, rel=1e-5)


def test_same_shapes_share_functions_and_other_values_do_not_leak():
    inference = Inference(positive_mean)
    first, second = inference.target(Y), inference.target(Y + 1.0)
    assert first.functions is second.functions
    assert inference.target(Y[:2]).functions is not first.functions
    z = jnp.zeros(1)
    difference = float(second.log_density(z) - first.log_density(z))
    expected = st.norm.logpdf(Y + 1, 1, 1).sum() - st.norm.logpdf(Y, 1, 1).sum()
    assert difference == pytest.approx(expected, rel=1e-4)


def test_models_may_look_at_their_data():
    def model(group, y):
        count = int(group.max()) + 1
        with numpyro.plate("groups", count):
            mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mean[group], 1.0), obs=y[y > 0])

    target = Inference(model).target(np.array([0, 1, 1]), Y)
    assert target.dim == 2


def test_log_density_of_a_user_takes_the_arguments_of_run():
    target = Inference(lambda z, scale: -jnp.sum(z**2) * scale, dim=2).target(3.0)
    assert float(target.log_density(jnp.ones(2))) == -6.0
    assert set(target.constrain(jnp.ones(2))) == {"z"}


def poisson():
    numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("n", dist.Poisson(3.0))


def subsampled():
    with numpyro.plate("rows", 10, subsample_size=5):
        numpyro.sample("x", dist.Normal(0.0, 1.0))


def parameter():
    numpyro.param("scale", 1.0)


def point():
    numpyro.sample("x", dist.Delta(1.0))


def nothing():
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0)


MESSAGES = [
    (
        poisson,
        "site 'n': expected a continuous latent or a discrete one with finitely many values, got "
        "Poisson; sum it out by hand and add it by numpyro.factor",
    ),
    (
        subsampled,
        "model: expected at least one continuous latent site outside the subsampled plate, got "
        "none",
    ),
    (
        parameter,
        "site 'scale': expected a sample site, got numpyro.param; give it a prior "
        "(dist.ImproperUniform for a flat one)",
    ),
    (
        point,
        "site 'x': expected a distribution with a density, got Delta; use numpyro.deterministic "
        "instead",
    ),
    (nothing, "model: expected at least one continuous latent site, got none"),
]


@pytest.mark.parametrize(("model", "message"), MESSAGES)
def test_messages(model, message):
    with pytest.raises(ConfigError) as error:
        Inference(model).target()
    assert str(error.value) == message


def test_message_without_funsor():
    try:
        import funsor  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("funsor is installed")

    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("side", dist.Bernoulli(0.3))

    with pytest.raises(ConfigError) as error:
        Inference(model).target()
    assert str(error.value) == (
        "discrete latent sites 'side': NumPyro sums them out with funsor, which is not installed; "
        "run pip install funsor, or sum them out by hand (dist.MixtureSameFamily)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "model: expected a function, got int"),
        ({"model": poisson, "dim": 0}, "dim: expected at least 1, got 0"),
        ({"model": poisson, "starts": 0}, "starts: expected at least 1, got 0"),
        ({"model": poisson, "max_steps": 0}, "max_steps: expected at least 1, got 0"),
    ],
)
def test_messages_of_settings(arguments, message):
    with pytest.raises(ConfigError) as error:
        Inference(**arguments)
    assert str(error.value) == message


def test_nan_in_the_data_is_blamed_on_its_site(key):
    target = Inference(positive_mean).target(np.array([1.0, np.nan, 2.0], np.float32))
    message = (
        r"log density at the start: expected a finite number, got (nan|-inf); the sites that are "
        r"not finite: 'y' \((nan|-inf)\); check that the data have no NaN and lie in the support "
        r"of their distribution"
    )
    with pytest.raises(ConfigError, match=message):
        check_starts(target, key)
