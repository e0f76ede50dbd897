"""One ratio or several: critics over the prior where the posterior is about 20 nats away from it.

    python -m experiments.telescoping

q is a Gaussian given the datum, in two ways: *narrow*, a quarter of the prior's scale in each of 16
dimensions, its mean near that of the prior; and *far*, two dimensions, its mean 6.4 scales away.
log q − log r is known. Every critic has the same budget, and is trained on the weighted logistic
objective with the posterior held still: 1,500 steps of Adam, 128 posterior and 512 contrast draws
each. The defaults of `TelescopingCritic` were chosen on seeds 1 and 2 of the narrow one.
"""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

from avb import Method
from avb._types import Key
from avb.contrasts import PriorContrast
from avb.critics import AbstractCritic, ResidualCritic, TelescopingCritic
from avb.evaluation._refit import refit_critic
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.objectives import WeightedLogistic
from experiments._known import AffineDecoder, AffineMoments, KnownPosterior
from experiments._results import RESULTS, markdown_table, spread, write_json

DATA, DATA_DIM, DRAWS, CONTRAST_DRAWS = 32, 3, 200, 4
EVEN = (0.25, 0.5, 0.75)
CRITICS = {
    "one ratio": ResidualCritic,
    "waymarks 0.25, 0.5, 0.75": lambda *a, **kw: TelescopingCritic(*a, waymarks=EVEN, **kw),
    "waymarks 0.5, 0.8, 0.95 (default)": TelescopingCritic,
}
HEADER = ["posterior", "KL(q‖r)", "critic", "T too large by", "spread of T − T*", "slope error"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
        seeds: Seeds of critics and draws.
        steps: Adam steps of each critic.
        width: Hidden units of each critic.
    """

    seeds: tuple[int, ...] = (10, 11, 12)
    steps: int = 1500
    width: int = 64


@dataclasses.dataclass(frozen=True)
class Problem:
    """q(z|x) = N(G x + c, s² I) beside a standard normal prior.

    Attributes:
        gain: G, of shape ``(d, x)``.
        offset: c, of shape ``(d,)``.
        scale: s.
    """

    gain: np.ndarray
    offset: np.ndarray
    scale: float

    @property
    def dim(self) -> int:
        return len(self.offset)

    def means(self, x: np.ndarray) -> np.ndarray:
        return x @ self.gain.T + self.offset

    def divergence(self, x: np.ndarray) -> float:
        """KL(q‖r) in nats, mean over the data."""
        log_scale = 2.0 * self.dim * np.log(self.scale)
        square = np.sum(self.means(x) ** 2, axis=1)
        return float(np.mean(0.5 * (self.dim * (self.scale**2 - 1.0) + square - log_scale)))

    def posterior(self) -> KnownPosterior:
        scale = jnp.asarray(self.scale * np.eye(self.dim), jnp.float32)
        gain, offset = (jnp.asarray(a, jnp.float32) for a in (self.gain, self.offset))
        return KnownPosterior(AffineMoments(gain, offset, scale), self.dim)

    def method(self, critic: AbstractCritic) -> Method:
        decoder = AffineDecoder(jnp.zeros((DATA_DIM, self.dim)), jnp.zeros(DATA_DIM))
        model = LatentVariableModel(
            standard_normal(self.dim), decoder, FixedNormal(1.0), (DATA_DIM,)
        )
        return Method(
            model,
            self.posterior(),
            PriorContrast(),
            critic,
            WeightedLogistic(),
            contrast_draws=CONTRAST_DRAWS,
        )


def problems() -> dict[str, Problem]:
    rng = np.random.default_rng(0)
    return {
        "narrow": Problem(0.5 * rng.normal(size=(16, DATA_DIM)), np.zeros(16), 0.25),
        "far": Problem(0.3 * rng.normal(size=(2, DATA_DIM)), np.array([4.5, -4.5]), 0.7),
    }


@eqx.filter_jit
def at_draws(method: Method, x: Float[Array, "n x"], key: Key) -> tuple[Array, Array, Array]:
    """Draws of q, and there T and its slope."""

    def datum(x: Float[Array, " x"], key: Key):
        features = method.posterior.encoder(x)
        critic = method.critic
        assert critic is not None
        seen = critic.features(x, features)
        keys = jax.random.split(key, DRAWS)
        z = jax.vmap(method.posterior.draw, in_axes=(None, 0))(features, keys)
        # The prior's whitened coordinates are z itself.
        value, slope = jax.vmap(jax.value_and_grad(lambda z: critic.evaluate(seen, z)))(z)
        return z, value, slope

    return jax.vmap(datum)(x, jax.random.split(key, len(x)))


def errors(problem: Problem, method: Method, x: np.ndarray, key: Key) -> dict[str, float]:
    """T and its slope against log q − log r, in float64."""
    found = at_draws(method, jnp.asarray(x), key)
    z, value, slope = (np.asarray(part, np.float64) for part in found)
    white = (z - problem.means(x)[:, None]) / problem.scale
    exact = 0.5 * np.sum(z**2 - white**2, axis=-1) - problem.dim * np.log(problem.scale)
    exact_slope = z - white / problem.scale
    missed = np.sum((slope - exact_slope) ** 2) / np.sum(exact_slope**2)
    difference = value - exact
    return {
        "bias": float(difference.mean()),
        "spread": float(difference.std()),
        "slope": float(np.sqrt(missed)),
    }


def measure(config: Config, problem: Problem, critic: str, x: np.ndarray) -> list[dict[str, Any]]:
    """One entry a seed."""
    runs = []
    for seed in config.seeds:
        key_init, key_train, key_test = jax.random.split(jax.random.key(seed), 3)
        began = time.process_time()
        size = problem.dim + problem.dim**2
        fresh = CRITICS[critic](size, problem.dim, width=config.width, key=key_init)
        method = refit_critic(problem.method(fresh), jnp.asarray(x), key_train, config.steps)
        found = errors(problem, method, x, key_test)
        runs.append(found | {"seed": seed, "seconds": time.process_time() - began})
    return runs


def main(config: Config) -> None:
    x = np.random.default_rng(1).normal(size=(DATA, DATA_DIM)).astype(np.float32)
    rows, results = [], {}
    for name, problem in problems().items():
        divergence = problem.divergence(x)
        for critic in CRITICS:
            runs = measure(config, problem, critic, x)
            results[f"{name}, {critic}"] = {"divergence": divergence, "runs": runs}
            told = [spread([run[k] for run in runs]) for k in ("bias", "spread", "slope")]
            rows.append([name, f"{divergence:.1f}", critic, *told])
            print(rows[-1], flush=True)
    write_json(RESULTS / "telescoping.json", dataclasses.asdict(config) | {"results": results})
    (RESULTS / "telescoping.md").write_text(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
