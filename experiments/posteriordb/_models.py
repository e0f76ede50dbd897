"""The models, after the formulas that come with the data; Normal takes a standard deviation.

Each takes the Stan data as keyword arguments, lists as arrays, and ignores what it does not
use. Sites have the names of the reference draws.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

STEPS_BETWEEN_TIMES = 10


def arguments(data: dict) -> dict:
    """Stan data as a model's keyword arguments: lists as arrays of floats."""
    return {k: np.asarray(v, float) if isinstance(v, list) else v for k, v in data.items()}


def _flat(name: str, support: constraints.Constraint, shape: tuple[int, ...] = ()) -> Array:
    """A site with an improper flat prior on its support."""
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def _flat_vector(name: str, size: int) -> Array:
    return _flat(name, constraints.real_vector, (size,))


def ark(*, y, K, **_):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    before = jnp.stack([y[K - k : len(y) - k] for k in range(1, K + 1)], axis=1)
    numpyro.sample("y", dist.Normal(alpha + before @ beta, sigma), obs=y[K:])


def arma(*, y, **_):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))

    def error(last, pair):
        now, before = pair
        e = now - (mu + phi * before + theta * last)
        return e, e

    first = y[0] - (mu + phi * mu)
    _, rest = jax.lax.scan(error, first, (y[1:], y[:-1]))
    errors = jnp.concatenate([first[None], rest])
    numpyro.factor("errors", dist.Normal(0.0, sigma).log_prob(errors).sum())


def diamonds(*, X, Y, **_):
    centred = X[:, 1:] - jnp.mean(X[:, 1:], axis=0, keepdims=True)
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([centred.shape[1]]).to_event(1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = numpyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    numpyro.sample("Y", dist.Normal(intercept + centred @ b, sigma), obs=Y)


def earn_height(*, earn, height, **_):
    beta = _flat_vector("beta", 2)
    sigma = _flat("sigma", constraints.positive)
    numpyro.sample("earn", dist.Normal(beta[0] + beta[1] * height, sigma), obs=earn)


def logearn_interaction(*, earn, height, male, **_):
    beta = _flat_vector("beta", 4)
    sigma = _flat("sigma", constraints.positive)
    mean = beta[0] + beta[1] * height + beta[2] * male + beta[3] * height * male
    numpyro.sample("log_earn", dist.Normal(mean, sigma), obs=jnp.log(earn))


def eight_schools(*, y, sigma, J, **_):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0).expand([J]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * trans)
    numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def gp_regr(*, x, y, **_):
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    squares = (x[:, None] - x[None, :]) ** 2
    # posteriordb adds sigma itself, not its square.
    covariance = alpha**2 * jnp.exp(-squares / (2.0 * rho**2)) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


def hmm(*, y, K, **_):
    rows = [numpyro.sample(f"theta{k + 1}", dist.Dirichlet(jnp.ones(K))) for k in range(K)]
    mu = _flat("mu", constraints.positive_ordered_vector, (K,))
    numpyro.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    log_rows = jnp.log(jnp.stack(rows))
    emission = dist.Normal(mu[None, :], 1.0).log_prob(y[:, None])

    def forward(log_alpha, log_emission):
        arrived = jax.nn.logsumexp(log_alpha[:, None] + log_rows, axis=0)
        return arrived + log_emission, None

    log_alpha, _ = jax.lax.scan(forward, emission[0], emission[1:])
    numpyro.factor("y", jax.nn.logsumexp(log_alpha))


def kidscore_interaction(*, kid_score, mom_hs, mom_iq, **_):
    beta = _flat_vector("beta", 4)
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = beta[0] + beta[1] * mom_hs + beta[2] * mom_iq + beta[3] * mom_hs * mom_iq
    numpyro.sample("kid_score", dist.Normal(mean, sigma), obs=kid_score)


def kidscore_momhsiq(*, kid_score, mom_hs, mom_iq, **_):
    beta = _flat_vector("beta", 3)
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = beta[0] + beta[1] * mom_hs + beta[2] * mom_iq
    numpyro.sample("kid_score", dist.Normal(mean, sigma), obs=kid_score)


def kilpisjarvi(*, x, y, pmualpha, psalpha, pmubeta, psbeta, **_):
    alpha = numpyro.sample("alpha", dist.Normal(pmualpha, psalpha))
    beta = numpyro.sample("beta", dist.Normal(pmubeta, psbeta))
    sigma = _flat("sigma", constraints.positive)
    numpyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def gauss_mix(*, y, **_):
    mu = _flat("mu", constraints.ordered_vector, (2,))
    numpyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    log_weights = jnp.log(jnp.stack([theta, 1.0 - theta]))
    log_terms = dist.Normal(mu[None, :], sigma[None, :]).log_prob(y[:, None])
    numpyro.factor("y", jax.nn.logsumexp(log_weights[None, :] + log_terms, axis=1).sum())


def concentrations(
    k_a: Array, K_m: Array, V_m: Array, *, dose: float, volume: float, t0: float, times: Array
) -> Float[Array, " n"]:
    """The drug's concentration at given times, by Runge-Kutta steps of fourth order."""

    def slope(t, c):
        absorbed = jnp.exp(-k_a * t) * dose * k_a / volume
        return absorbed - V_m / volume * c / (K_m + c)

    def advance(carry, until):
        t, c = carry
        h = (until - t) / STEPS_BETWEEN_TIMES

        def small(pair, _):
            t, c = pair
            k1 = slope(t, c)
            k2 = slope(t + h / 2, c + h / 2 * k1)
            k3 = slope(t + h / 2, c + h / 2 * k2)
            k4 = slope(t + h, c + h * k3)
            return (t + h, c + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)), None

        (_, c), _ = jax.lax.scan(small, (t, c), None, length=STEPS_BETWEEN_TIMES)
        return (until, c), c

    start = (jnp.asarray(t0, times.dtype), jnp.zeros((), times.dtype))
    return jax.lax.scan(advance, start, times)[1]


def one_comp_mm_elim_abs(*, D, V, t0, times, C_hat, **_):
    names = ("k_a", "K_m", "V_m", "sigma")
    k_a, K_m, V_m, sigma = (numpyro.sample(name, dist.HalfCauchy(1.0)) for name in names)
    level = concentrations(k_a, K_m, V_m, dose=D, volume=V, t0=t0, times=jnp.asarray(times))
    numpyro.sample("C_hat", dist.LogNormal(jnp.log(level), sigma), obs=C_hat)


def blr(*, X, y, **_):
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


MODELS: dict[str, Callable] = {
    "arK-arK": ark,
    "arma-arma11": arma,
    "diamonds-diamonds": diamonds,
    "earnings-earn_height": earn_height,
    "earnings-logearn_interaction": logearn_interaction,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "gp_pois_regr-gp_regr": gp_regr,
    "hmm_example-hmm_example": hmm,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "kidiq-kidscore_momhsiq": kidscore_momhsiq,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": gauss_mix,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": one_comp_mm_elim_abs,
    "sblrc-blr": blr,
}
