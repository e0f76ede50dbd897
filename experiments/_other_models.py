"""Models that the mixture's defaults were not chosen on, most with simulated data.

Of the kinds that one meets in applied work and in posterior databases: hierarchies, centred and
not, latent processes, time series, ordinal and count data, constrained matrices, shrinkage.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.experimental.ode import odeint
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam

from experiments.multimodal import SCHOOL_ERRORS, SCHOOLS


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model with data, and the one of the same posterior that a chain explores best.

    Attributes:
        model: What inference is given.
        data: Its keyword arguments.
        reference: The model for NUTS, of the same sites.
    """

    model: Callable
    data: dict
    reference: Callable


def _problem(model: Callable, *loc_scale_sites: str, **data: np.ndarray) -> Problem:
    config = {site: LocScaleReparam(0) for site in loc_scale_sites}
    reference = reparam(model, config=config) if config else model
    return Problem(model, data, reference)


def schools() -> Problem:
    """Eight schools, centred: a funnel in the model's own coordinates."""

    def model(y, errors):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, errors), obs=y)

    return _problem(model, "theta", y=SCHOOLS, errors=SCHOOL_ERRORS)


def counties() -> Problem:
    """Varying intercepts of 85 unequal groups, and a slope: 90 dimensions, centred."""
    random = np.random.default_rng(1)
    sizes = np.maximum(1, random.geometric(0.1, 85))
    group = np.repeat(np.arange(85), sizes)
    floor = random.random(len(group)) < 0.17
    y = random.normal(1.5, 0.33, 85)[group] - 0.7 * floor + random.normal(0.0, 0.75, len(group))

    def model(y, floor, group):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("counties", 85):
            alpha = numpyro.sample("alpha", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(alpha[group] + slope * floor, sigma), obs=y)

    return _problem(model, y=y, floor=floor.astype(np.float32), group=group)


def garch() -> Problem:
    """GARCH(1, 1) of 200 returns, stationary by its constraints."""
    random = np.random.default_rng(2)
    y, variance = np.zeros(200), 1.0
    for t in range(200):
        y[t] = random.normal(0.1, np.sqrt(variance))
        variance = 0.3 + 0.3 * (y[t] - 0.1) ** 2 + 0.4 * variance

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        base = numpyro.sample("base", dist.HalfNormal(5.0))
        shock = numpyro.sample("shock", dist.Uniform(0.0, 1.0))
        kept = numpyro.sample("kept", dist.Uniform(0.0, 1.0 - shock))

        def step(variance, y):
            after = base + shock * (y - mu) ** 2 + kept * variance
            return after, variance

        _, variances = lax.scan(step, jnp.ones(()), y)
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variances)), obs=y)

    return _problem(model, y=y.astype(np.float32))


def volatility() -> Problem:
    """Stochastic volatility of 100 returns: a latent path, 103 dimensions, non-centred."""
    random = np.random.default_rng(3)
    h, path = 0.0, []
    for _ in range(100):
        h = 0.9 * h + 0.4 * random.standard_normal()
        path.append(h)
    y = random.standard_normal(100) * np.exp(0.5 * np.array(path))

    def model(y):
        kept = numpyro.sample("kept", dist.Uniform(-1.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        shocks = numpyro.sample("shocks", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))

        def step(h, shock):
            after = kept * h + sigma * shock
            return after, after

        first = shocks[0] * sigma / jnp.sqrt(1.0 - kept**2)
        _, rest = lax.scan(step, first, shocks[1:])
        h = mu + jnp.concatenate([first[None], rest])
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(0.5 * h)), obs=y)

    return _problem(model, y=y.astype(np.float32))


def answers() -> Problem:
    """Two-parameter item response: 20 items, 60 persons, 102 dimensions."""
    random = np.random.default_rng(4)
    ability, difficulty = random.standard_normal(60), random.standard_normal(20)
    slope = np.exp(0.3 * random.standard_normal(20))
    chance = 1.0 / (1.0 + np.exp(-slope * (ability[:, None] - difficulty)))
    y = (random.random((60, 20)) < chance).astype(np.int32)

    def model(y):
        persons, items = y.shape
        spread = numpyro.sample("spread", dist.HalfNormal(1.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0).expand([persons]).to_event(1))
        slope = numpyro.sample("slope", dist.LogNormal(0.0, 0.5).expand([items]).to_event(1))
        hard = numpyro.sample("hard", dist.Normal(mean, spread).expand([items]).to_event(1))
        logits = slope * (ability[:, None] - hard)
        numpyro.sample("y", dist.Bernoulli(logits=logits).to_event(2), obs=y)

    return _problem(model, y=y)


def horseshoe() -> Problem:
    """Sparse regression, 20 coefficients of which three matter, regularised horseshoe."""
    random = np.random.default_rng(5)
    x = random.standard_normal((80, 20))
    y = x[:, :3] @ np.array([2.0, -1.5, 1.0]) + random.standard_normal(80)

    def model(x, y):
        dim = x.shape[1]
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
        slab = numpyro.sample("slab", dist.InverseGamma(2.0, 8.0))
        local = numpyro.sample("local", dist.HalfCauchy(1.0).expand([dim]).to_event(1))
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))
        shrunk = jnp.sqrt(slab) * local / jnp.sqrt(slab + tau**2 * local**2)
        beta = numpyro.deterministic("beta", tau * shrunk * raw)
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)

    return _problem(model, x=x.astype(np.float32), y=y.astype(np.float32))


def lynx() -> Problem:
    """Lotka and Volterra's predators: an ordinary differential equation of eight parameters."""
    random = np.random.default_rng(6)

    def path(start, rates, times):
        def slope(z, _, a, b, c, d):
            return jnp.stack([(a - b * z[1]) * z[0], (d * z[0] - c) * z[1]])

        return odeint(slope, start, times, *rates, rtol=1e-5, atol=1e-4, mxstep=500)

    times = np.arange(21, dtype=np.float32)
    truth = np.asarray(
        path(jnp.array([33.0, 6.0]), jnp.array([0.55, 0.028, 0.8, 0.024]), jnp.asarray(times))
    )
    y = truth * np.exp(0.25 * random.standard_normal(truth.shape))

    def model(y, times):
        start = numpyro.sample("start", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))
        centre = jnp.array([1.0, 0.05, 1.0, 0.05])
        width = jnp.array([0.5, 0.05, 0.5, 0.05])
        bounded = dist.TruncatedNormal(centre, width, low=0.0).to_event(1)
        rates = numpyro.sample("rates", bounded)
        sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
        z = jnp.maximum(path(start, rates, times), 1e-6)
        numpyro.sample("y", dist.LogNormal(jnp.log(z), sigma).to_event(2), obs=y)

    return _problem(model, y=y.astype(np.float32), times=times)


def correlated() -> Problem:
    """A covariance matrix: LKJ correlations of four variables, 50 rows."""
    random = np.random.default_rng(7)
    mix = np.tril(random.standard_normal((4, 4))) + np.eye(4)
    y = random.standard_normal((50, 4)) @ mix.T

    def model(y):
        scale = numpyro.sample("scale", dist.HalfCauchy(2.5).expand([4]).to_event(1))
        root = numpyro.sample("root", dist.LKJCholesky(4, 1.0))
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([4]).to_event(1))
        numpyro.sample("y", dist.MultivariateNormal(mu, scale_tril=scale[:, None] * root), obs=y)

    return _problem(model, y=y.astype(np.float32))


def ordinal() -> Problem:
    """Ordered logistic regression: five grades, ordered cut points."""
    random = np.random.default_rng(8)
    x = random.standard_normal((120, 3))
    logit = x @ np.array([1.0, -0.5, 0.0]) + random.logistic(size=120)
    y = np.digitize(logit, [-2.0, -0.5, 0.7, 2.5])

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.5).expand([3]).to_event(1))
        ordered = dist.TransformedDistribution(
            dist.Normal(0.0, 3.0).expand([4]).to_event(1), dist.transforms.OrderedTransform()
        )
        cuts = numpyro.sample("cuts", ordered)
        numpyro.sample("y", dist.OrderedLogistic(x @ beta, cuts), obs=y)

    return _problem(model, x=x.astype(np.float32), y=y)


def counts() -> Problem:
    """A latent Gaussian process at 40 points, Poisson counts: 42 dimensions, non-centred."""
    random = np.random.default_rng(9)
    x = np.linspace(0.0, 10.0, 40)
    y = random.poisson(np.exp(1.0 + np.sin(x)))

    def model(x, y):
        length = numpyro.sample("length", dist.InverseGamma(4.0, 6.0))
        height = numpyro.sample("height", dist.HalfNormal(2.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
        white = numpyro.sample("white", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
        near = jnp.exp(-0.5 * ((x[:, None] - x[None]) / length) ** 2)
        root = jnp.linalg.cholesky(near + 1e-4 * jnp.eye(len(x)))
        numpyro.sample("y", dist.Poisson(jnp.exp(mean + height * root @ white)), obs=y)

    return _problem(model, x=x.astype(np.float32), y=y)


def regimes() -> Problem:
    """A hidden Markov model of two regimes, labels told apart by ordered means, 150 points."""
    random = np.random.default_rng(10)
    state, y = 0, []
    for _ in range(150):
        state = state if random.random() < (0.9, 0.8)[state] else 1 - state
        y.append(random.normal((-0.8, 1.0)[state], (0.7, 1.2)[state]))

    def model(y):
        rows = dist.Dirichlet(jnp.array([[4.0, 1.0], [1.0, 4.0]])).to_event(1)
        move = numpyro.sample("move", rows)
        ordered = dist.TransformedDistribution(
            dist.Normal(0.0, 2.0).expand([2]).to_event(1), dist.transforms.OrderedTransform()
        )
        mu = numpyro.sample("mu", ordered)
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
        logs = dist.Normal(mu, sigma).log_prob(y[:, None])

        def step(alpha, log):
            after = jax.nn.logsumexp(alpha[:, None] + jnp.log(move), axis=0) + log
            return after, None

        alpha, _ = lax.scan(step, logs[0] - jnp.log(2.0), logs[1:])
        numpyro.factor("path", jax.nn.logsumexp(alpha))

    return _problem(model, y=np.array(y, np.float32))


def robust() -> Problem:
    """Regression with Student-t noise of unknown degrees of freedom, and a flat scale."""
    random = np.random.default_rng(11)
    x = random.standard_normal((60, 2))
    y = 1.0 + x @ np.array([0.5, -2.0]) + random.standard_t(3.0, 60)

    def model(x, y):
        alpha = numpyro.sample("alpha", dist.Cauchy(0.0, 10.0))
        beta = numpyro.sample("beta", dist.Cauchy(0.0, 2.5).expand([2]).to_event(1))
        degrees = numpyro.sample("degrees", dist.Gamma(2.0, 0.1))
        positive = dist.constraints.positive
        sigma = numpyro.sample("sigma", dist.ImproperUniform(positive, (), ()))
        numpyro.factor("scale", -jnp.log(sigma))
        numpyro.sample("y", dist.StudentT(degrees, alpha + x @ beta, sigma), obs=y)

    return _problem(model, x=x.astype(np.float32), y=y.astype(np.float32))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "eight schools, centred": schools,
    "85 counties, centred": counties,
    "GARCH(1, 1)": garch,
    "stochastic volatility": volatility,
    "item response": answers,
    "horseshoe": horseshoe,
    "predators and prey": lynx,
    "covariance matrix": correlated,
    "ordinal regression": ordinal,
    "Gaussian process, counts": counts,
    "hidden regimes": regimes,
    "robust regression": robust,
}
