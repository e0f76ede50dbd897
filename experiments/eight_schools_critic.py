"""Eight schools with a scale that is free in sign: a critic's posterior against exact draws.

    python -m experiments.eight_schools_critic             # all methods, seeds 0-9

The model of Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, section 4:
y_j ~ N(mu + tau eta_j, s_j) with data and errors divided by ten and unit normal priors on mu,
tau and every eta. (tau, eta) and (-tau, -eta) are equally likely, so the posterior is symmetric,
and a chain that keeps to one sign is wrong. Two references are right: draws that are
independent and exact (given tau all else is Gaussian, and tau is one number), and draws of the
No-U-Turn sampler whose signs are tossed anew. C2ST is told against these, and once between both.

To the library this is a latent-variable model with one datum: the prior is N(0, I), the
decoder z -> mu + tau eta has no parameters, and the encoder sees nothing.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import scipy.stats
import tyro
from numpyro.infer import MCMC, NUTS

from avb import FitConfig, Method
from avb._types import Datum, Key, Latent
from avb.contrasts import GaussianContrast, PriorContrast
from avb.critics import ResidualCritic
from avb.diagnostics import c2st
from avb.evaluation import elbo_bracket
from avb.models import FamilyLikelihood, LatentVariableModel
from avb.models._latent import standard_normal
from avb.objectives import Logistic
from avb.posteriors import ImplicitPosterior, SemiImplicitPosterior
from experiments._results import RESULTS, markdown_table, spread, write_json
from experiments._seeds import mean_terms, train_seeds
from experiments.multimodal import SCHOOL_ERRORS, SCHOOLS

Y, ERRORS = SCHOOLS / 10.0, SCHOOL_ERRORS / 10.0
DATA = Y[None].astype(np.float32)
DIM = 10
FEATURES = 64
DRAWS = 64
REFERENCE = 20_000
TARGET = 0.55


def decode(z: Latent) -> Datum:
    """The schools' means, of shape ``(1, 8)``, from mu, tau and eta."""
    return (z[0] + z[1] * z[2:])[None]


def nothing(x: Datum) -> Datum:
    """The features of a datum that never changes: zeros, so that q starts near N(0, I)."""
    return jnp.zeros(FEATURES)


def build_model() -> LatentVariableModel:
    """p(y, mu, tau, eta) as prior, decoder and likelihood."""
    scale = tuple(float(s) for s in ERRORS)
    likelihood = FamilyLikelihood(lambda p: dist.Normal(p[0], jnp.asarray(scale)), 1)
    return LatentVariableModel(standard_normal(DIM), decode, likelihood, (8,))


def covariance_given(tau: float) -> np.ndarray:
    """Of y given tau: errors, tau eta, and mu."""
    return np.diag(ERRORS**2 + tau**2) + 1.0


@cache
def tau_grid(half: float = 6.0, points: int = 4800) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints and log p(y, tau) there."""
    ticks = -half + 2 * half / points * (np.arange(points) + 0.5)
    given = [scipy.stats.multivariate_normal.logpdf(Y, cov=covariance_given(t)) for t in ticks]
    return ticks, np.asarray(given) + scipy.stats.norm.logpdf(ticks)


def log_evidence() -> float:
    """Log p(y), by the midpoint rule over tau."""
    ticks, logs = tau_grid()
    return float(np.logaddexp.reduce(logs) + math.log(ticks[1] - ticks[0]))


def exact_draws(count: int, seed: int) -> np.ndarray:
    """Independent draws of the posterior, of shape ``(count, 10)``."""
    rng = np.random.default_rng(seed)
    ticks, logs = tau_grid()
    mass = np.cumsum(np.exp(logs - logs.max()))
    side = ticks[1] - ticks[0]
    edges = np.append(ticks - side / 2, ticks[-1] + side / 2)
    tau = np.interp(rng.random(count), np.append(0.0, mass / mass[-1]), edges)
    gain = np.concatenate([np.ones((count, 8, 1)), tau[:, None, None] * np.eye(8)[None]], axis=2)
    weighted = gain / ERRORS[None, :, None] ** 2
    precision = np.eye(9)[None] + np.swapaxes(gain, 1, 2) @ weighted
    mean = np.linalg.solve(precision, (Y @ weighted)[..., None])
    factor = np.swapaxes(np.linalg.cholesky(precision), 1, 2)
    rest = (mean + np.linalg.solve(factor, rng.standard_normal((count, 9, 1))))[..., 0]
    return np.concatenate([rest[:, :1], tau[:, None], rest[:, 1:]], axis=1)


def nuts_draws(count: int, seed: int) -> np.ndarray:
    """Draws of NUTS, thinned by five, each with the sign of (tau, eta) tossed anew."""
    model = build_model()
    potential = lambda z: -model.log_joint(jnp.asarray(DATA[0]), z)  # noqa: E731
    chains = MCMC(
        NUTS(potential_fn=potential),
        num_warmup=1000,
        num_samples=5 * count // 10,
        thinning=5,
        num_chains=10,
        chain_method="vectorized",
        progress_bar=False,
    )
    key_start, key_run, key_sign = jax.random.split(jax.random.key(seed), 3)
    chains.run(key_run, init_params=0.1 * jax.random.normal(key_start, (10, DIM)))
    draws = np.asarray(chains.get_samples())
    sign = np.asarray(jax.random.rademacher(key_sign, (len(draws), 1)))
    return np.concatenate([draws[:, :1], sign * draws[:, 1:]], axis=1)


def implicit(key: Key) -> Method:
    """Implicit, a logistic critic over the prior."""
    return _method(ImplicitPosterior, PriorContrast(), key)


def adaptive(key: Key) -> Method:
    """Implicit, a logistic critic over a learned full-covariance Gaussian."""
    key_contrast, key_rest = jax.random.split(key)
    return _method(ImplicitPosterior, GaussianContrast(FEATURES, DIM, key=key_contrast), key_rest)


def semi_implicit(key: Key) -> Method:
    """A mixture over ε, a logistic critic over the prior: with a bracket of its ELBO."""
    return _method(SemiImplicitPosterior, PriorContrast(), key)


def _method(posterior: type, contrast, key: Key) -> Method:
    key_posterior, key_critic = jax.random.split(key)
    q = posterior(
        nothing,
        data_shape=(8,),
        latent_dim=DIM,
        noise_dim=16,
        width=64,
        depth=2,
        key=key_posterior,
    )
    network = ResidualCritic(FEATURES, DIM, width=64, depth=2, key=key_critic)
    return Method(build_model(), q, contrast, network, Logistic(), posterior_draws=DRAWS)


METHODS: dict[str, Callable[[Key], Method]] = {
    "implicit, prior": implicit,
    "implicit, learned Gaussian": adaptive,
    "semi-implicit, prior": semi_implicit,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings, chosen on seeds 100 and 101.

    Attributes:
        methods: Names; all by default.
        seeds: Number of seeds, from ``first_seed``.
        first_seed: The first of them.
        steps: Training steps, of 64 draws each.
        rate: Adam's peak rate of the posterior.
        critic_rate: That of the critic.
        momentum: Adam's first moment.
        out: Where results are written, ``.json``, ``.md`` and ``.png``.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 10
    first_seed: int = 0
    steps: int = 6000
    rate: float = 3e-3
    critic_rate: float = 6e-3
    momentum: float = 0.0
    out: Path = RESULTS / "eight_schools_critic"


def measure(method: Method, reference: np.ndarray, seed: int) -> dict:
    """C2ST, the share of positive tau, and the divergence where it is known."""
    key_draw, key_test, key_bound = jax.random.split(jax.random.key(1000 + seed), 3)
    z = np.asarray(sample(method.posterior, key_draw))
    test = c2st(z, reference, key=key_test, repetitions=3)
    result: dict = {
        "seed": seed,
        "positive": float((z[:, 1] > 0).mean()),
        "c2st": test.accuracy,
        "null": test.null_mean,
    }
    if isinstance(method.posterior, SemiImplicitPosterior):
        lower, upper = elbo_bracket(
            method.model, method.posterior, DATA, key=key_bound, draws=2048, components=2**15
        )
        result["divergence"] = [log_evidence() - side.mean for side in (upper, lower)]
        result["divergence_error"] = lower.standard_error
    return result


@eqx.filter_jit
def sample(posterior, key: Key):
    """As many draws as C2ST takes of each side."""
    return posterior.sample(key, jnp.asarray(DATA[0]), (5000,))


def run(name: str, config: Config, reference: np.ndarray) -> list[dict]:
    """All seeds of one method."""
    began = time.perf_counter()
    seeds = tuple(range(config.first_seed, config.first_seed + config.seeds))
    settings = FitConfig(
        epochs=config.steps,
        batch_size=1,
        learning_rate=config.rate,
        critic_learning_rate=config.critic_rate,
        momentum=config.momentum,
        final_rate=0.01,
        critic_final_rate=0.01,
        kl_warmup=0.0,
    )
    last = np.zeros(len(seeds))

    def report(step: int, states) -> None:
        last[:] = mean_terms(states)["elbo"]
        print(name, step, np.round(last, 3), flush=True)

    methods = train_seeds(METHODS[name], DATA, settings, seeds, report)
    seconds = (time.perf_counter() - began) / len(seeds)
    results = []
    for seed, method, told in zip(seeds, methods, last, strict=True):
        found = measure(method, reference, seed)
        results.append({**found, "training_elbo": float(told), "seconds": seconds})
        print(results[-1], flush=True)
    draws = np.asarray(sample(methods[0].posterior, jax.random.key(0)), np.float64)
    results[0]["draws"] = np.round(draws[:1500, 1:3], 3).tolist()
    return results


def table(results: dict[str, list[dict]]) -> str:
    """The report."""
    header = [
        "method", "seeds", "C2ST", "reference against itself", f"at most {TARGET}",
        "share of tau > 0", "KL(q, p)", "ELBO while training",
        "seconds a seed",
    ]  # fmt: skip
    rows = []
    for name, runs in results.items():
        column = lambda key, runs=runs: [run[key] for run in runs]  # noqa: E731
        met = [run["c2st"] <= TARGET for run in runs]
        known = [run["divergence"] for run in runs if "divergence" in run]
        sides = np.mean(known, axis=0) if known else None
        rows.append(
            [
                name,
                str(len(runs)),
                spread(column("c2st"), 3),
                spread(column("null"), 3),
                f"{sum(met)} of {len(runs)}",
                spread(column("positive"), 3),
                "–" if sides is None else f"{sides[0]:.3f} to {sides[1]:.3f}",
                spread(column("training_elbo"), 3),
                f"{np.mean(column('seconds')):.0f}",
            ]
        )
    return markdown_table(header, rows)


def picture(results: dict[str, list[dict]], reference: np.ndarray, path: Path) -> None:
    """Tau against the first school's eta, of the exact posterior and of each first seed."""
    clouds = {"exact": reference[:1500, 1:3]}
    clouds |= {name: np.asarray(runs[0]["draws"]) for name, runs in results.items()}
    figure, axes = plt.subplots(
        1, len(clouds), figsize=(3 * len(clouds), 3), squeeze=False, sharex=True, sharey=True
    )
    for axis, (name, cloud) in zip(axes[0], clouds.items(), strict=True):
        axis.plot(*cloud.T, ".", ms=1.5, alpha=0.6)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("tau")
    axes[0, 0].set_ylabel("eta of the first school")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main(config: Config) -> None:
    """Run what has no result yet, then write table and picture."""
    path = config.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    reference, exact = nuts_draws(REFERENCE, 0), exact_draws(REFERENCE, 0)
    control = np.random.default_rng(0).multivariate_normal(
        exact.mean(axis=0), np.cov(exact.T), REFERENCE
    )
    agreement, gaussian = (
        c2st(draws, reference, key=jax.random.key(0), repetitions=3).accuracy
        for draws in (exact, control)
    )
    for name in config.methods:
        if len(results.get(name, [])) < config.seeds:
            results[name] = run(name, config, reference)
            write_json(path, results)
    results = {name: results[name] for name in METHODS if name in results}
    picture(results, exact, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(
        "# Eight schools, scale free in sign, by a critic\n\n`python -m "
        "experiments.eight_schools_critic`; mean and range over seeds; "
        f"log p(y) = {log_evidence():.4f} by quadrature; C2ST of exact draws against the same "
        f"reference {agreement:.3f}, of the Gaussian with their moments {gaussian:.3f}.\n\n"
        + table(results)
    )
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
