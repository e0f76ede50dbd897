"""Does the verdict catch broken critics, and leave sound ones alone?

    python -m experiments.broken_critics               # about 15 minutes on one idle core
    python -m experiments.broken_critics --runs 3      # a look; results of runs are kept

Every run draws a linear-Gaussian model, 32 data from it and a curved implicit posterior whose
density is known, so that the error of a critic's ELBO is known too: E_q[log q − log r − T].
On each, four critics of the same network are trained, three of them badly: under-trained
(too few steps), over-regularised (strong weight decay) and saturated (in even runs a sound T
times 2 to 5, in odd ones trained to the end on a handful of draws). The verdict sees nothing
but the method and the data.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float

from avb import Method
from avb._types import Features, Key, Latent, Scalar
from avb.contrasts import AbstractContrast
from avb.critics import AbstractCritic, ResidualCritic
from avb.densities import DiagonalGaussian, FullGaussian
from avb.evaluation import fresh_critic_elbo, judge_critic
from avb.evaluation._critic import critic_density
from avb.models import FixedNormal, LatentVariableModel
from avb.models._latent import standard_normal
from avb.objectives import WeightedLogistic
from avb.posteriors import AbstractPosterior
from avb.training._contest import adversary_loss, contest
from avb.training._draws import drawn
from experiments._results import RESULTS, markdown_table, write_json

DIM, DATA_DIM, DATA, NOISE = 2, 4, 32, 0.7
CONTRAST_DRAWS = 4
SORTS = ("sound", "under-trained", "over-regularised", "saturated")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command.

    Attributes:
        runs: Runs of each sort.
        first_seed: Seed of the first problem; the verdict's tolerance was chosen on those from 0.
        tolerance: Of the verdict, in nats per datum.
        sound: A critic whose ELBO is off by no more counts as sound, in nats per datum.
        critics: Fresh critics a run.
        steps: Their training steps.
        out: Where the results go.
    """

    runs: int = 100
    first_seed: int = 2000
    tolerance: float = 0.05
    sound: float = 0.1
    critics: int = 1
    steps: int = 2000
    out: Path = RESULTS


class AffineDecoder(eqx.Module):
    """The mean W z + b."""

    weight: Float[Array, "x d"]
    bias: Float[Array, " x"]

    def __call__(self, z: Latent) -> Float[Array, "1 x"]:
        """Likelihood parameters of one latent vector."""
        return (self.weight @ z + self.bias)[None, :]


class Curved(AbstractPosterior):
    """z = loc(x) + L u, u = (ε₁, ε₂ + b(x) (ε₁² − 1)): a banana of known density."""

    encoder: Callable
    gain: Float[Array, "d x"]
    shift: Float[Array, " d"]
    scale_tril: Float[Array, "d d"]
    bend: Scalar
    latent_dim: int = eqx.field(static=True, default=DIM)

    def gaussian(self, features: Features) -> FullGaussian:
        """Location and scale, before the bend."""
        return FullGaussian(self.gain @ features + self.shift, self.scale_tril)

    def bend_at(self, features: Features) -> Scalar:
        """The bend differs from datum to datum."""
        return self.bend * (1.0 + 0.5 * jnp.sin(features[0]))

    def draw(self, features: Features, key: Key) -> Latent:
        noise = jax.random.normal(key, (DIM,))
        bent = noise[1] + self.bend_at(features) * (noise[0] ** 2 - 1.0)
        gaussian = self.gaussian(features)
        return gaussian.loc + gaussian.scale_tril @ jnp.stack([noise[0], bent])

    def frame(self, features: Features) -> DiagonalGaussian:
        gaussian = self.gaussian(features)
        return DiagonalGaussian(gaussian.loc, jnp.log(jnp.diagonal(gaussian.scale_tril)))

    def log_prob(self, features: Features, z: Latent) -> Scalar:
        """The density that the verdict does not know; the bend has a Jacobian of 1."""
        gaussian = self.gaussian(features)
        u = gaussian.whiten(z)
        bent = self.bend_at(features) * (u[0] ** 2 - 1.0)
        return gaussian.log_prob(gaussian.loc + gaussian.scale_tril @ u.at[1].add(-bent))


class Matched(AbstractContrast):
    """The Gaussian with the moments of the curved posterior, which are known."""

    is_learned: ClassVar[bool] = False

    def condition(self, posterior, prior, features: Features, key: Key) -> FullGaussian:
        gaussian = posterior.gaussian(features)
        spread = jnp.sqrt(1.0 + 2.0 * posterior.bend_at(features) ** 2)
        return FullGaussian(
            gaussian.loc, gaussian.scale_tril * jnp.stack([jnp.ones(()), spread])[None, :]
        )


class Scaled(AbstractCritic):
    """A critic times a factor."""

    critic: AbstractCritic
    factor: Scalar

    def features(self, x, posterior_features) -> Float[Array, " c"]:
        return self.critic.features(x, posterior_features)

    def evaluate(self, features: Float[Array, " c"], white: Latent) -> Scalar:
        return self.factor * self.critic.evaluate(features, white)


class Regime(eqx.Module):
    """How a critic is trained; arrays, so that all sorts share one compiled program.

    Attributes:
        steps: Adam steps.
        decay: Decoupled weight decay, as a share of the rate.
        batches: Batches of draws; when they are used up, the first comes again.
        factor: What the trained T is multiplied with.
    """

    steps: Array
    decay: Array
    batches: Array
    factor: Array


def regime(sort: str, seed: int) -> Regime:
    """The settings of one sort of critic, different from run to run."""
    rng = np.random.default_rng([seed, SORTS.index(sort)])
    steps, decay, batches, factor = 2000, 0.0, 1_000_000, 1.0
    if sort == "under-trained":
        steps = int(rng.integers(5, 30))
    elif sort == "over-regularised":
        decay = rng.uniform(1.0, 10.0)
    elif sort == "saturated" and seed % 2 == 0:
        factor = rng.uniform(2.0, 5.0)
    elif sort == "saturated":
        batches, steps = int(rng.integers(1, 4)), 2000
    return Regime(*(jnp.asarray(v) for v in (steps, decay, batches, factor)))


def problem(seed: int) -> tuple[LatentVariableModel, Curved, np.ndarray]:
    """A model, a posterior near the true one but bent, and data."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(DATA_DIM, DIM)), rng.normal(size=DATA_DIM)
    z, noise = rng.normal(size=(DATA, DIM)), rng.normal(size=(DATA, DATA_DIM))
    x = (z @ weight.T + bias + NOISE * noise).astype(np.float32)
    covariance = np.linalg.inv(np.eye(DIM) + weight.T @ weight / NOISE**2)
    gain = covariance @ weight.T / NOISE**2
    arrays = (weight, bias, gain, -gain @ bias, np.linalg.cholesky(covariance))
    weight, bias, gain, shift, tril = (jnp.asarray(a, jnp.float32) for a in arrays)
    model = LatentVariableModel(
        standard_normal(DIM), AffineDecoder(weight, bias), FixedNormal(NOISE), (DATA_DIM,)
    )
    bend = jnp.asarray(rng.uniform(0.6, 1.0), jnp.float32)
    return model, Curved(jnp.ravel, gain, shift, tril, bend), x


@eqx.filter_jit
def trained(method: Method, x: Array, settings: Regime, key: Key, rate: float = 1e-2) -> Method:
    """The method with its critic trained as the settings say."""
    parameters, static = eqx.partition(method.critic, eqx.is_inexact_array)
    optimiser = optax.scale_by_adam()

    def loss(parameters, key: Key) -> Scalar:
        held = eqx.tree_at(lambda m: m.critic, method, eqx.combine(parameters, static))
        key_z, key_contest = jax.random.split(key)
        features = jax.vmap(held.posterior.encoder)(x)
        z = drawn(held, features, key_z)
        met = contest(held, x, features, z, key_contest)
        return adversary_loss(held, met)[1]

    def step(i, carry):
        parameters, state = carry
        gradient = jax.grad(loss)(parameters, jax.random.fold_in(key, i % settings.batches))
        updates, state = optimiser.update(gradient, state)
        now = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * i / settings.steps))
        move = lambda p, u: p - now * (u + settings.decay * p)  # noqa: E731
        return jax.tree.map(move, parameters, updates), state

    carry = (parameters, optimiser.init(parameters))
    parameters, _ = jax.lax.fori_loop(0, settings.steps, step, carry)
    critic = Scaled(eqx.combine(parameters, static), settings.factor.astype(jnp.float32))
    return eqx.tree_at(lambda m: m.critic, method, critic)


@eqx.filter_jit
def error(method: Method, x: Array, key: Key, draws: int = 2000) -> tuple[Scalar, Scalar]:
    """E_q[log q − log r − T], by which the critic's ELBO is too high; and KL(q‖r)."""

    def datum(x, key: Key):
        key_condition, key_z = jax.random.split(key)
        features = method.posterior.encoder(x)
        claimed = critic_density(method, x, features, key_condition, jnp.zeros(()))
        keys = jax.random.split(key_z, draws)
        z = jax.vmap(method.posterior.draw, in_axes=(None, 0))(features, keys)
        log_q = jax.vmap(method.posterior.log_prob, in_axes=(None, 0))(features, z)
        missed = log_q - jax.vmap(claimed.log_prob)(z)
        return jnp.mean(missed), jnp.mean(log_q - jax.vmap(claimed.contrast.log_prob)(z))

    return jax.tree.map(jnp.mean, jax.vmap(datum)(x, jax.random.split(key, len(x))))


def run(seed: int, options: Options) -> list[dict]:
    """One critic of each sort on one problem, with its true error and the verdict."""
    model, posterior, x = problem(seed)
    keys = jax.random.split(jax.random.key(seed), 5)
    began = time.process_time()
    fresh = fresh_critic_elbo(
        model, posterior, x, key=keys[0], critics=options.critics, steps=options.steps, draws=256
    )
    fresh_seconds = time.process_time() - began
    critic = ResidualCritic(DATA_DIM, DIM, width=32, key=keys[1])
    method = Method(
        model, posterior, Matched(), critic, WeightedLogistic(), contrast_draws=CONTRAST_DRAWS
    )
    rows = []
    for sort in SORTS:
        on_trial = trained(method, jnp.asarray(x), regime(sort, seed), keys[2])
        missed, divergence = error(on_trial, jnp.asarray(x), keys[3])
        verdict = judge_critic(
            on_trial, x, key=keys[4], fresh=fresh, tolerance=options.tolerance, draws=256
        )
        rows.append(
            {
                "seed": seed,
                "sort": sort,
                "error": float(missed),
                "divergence": float(divergence),
                "fresh_seconds": fresh_seconds,
                **verdict.as_dict(),
            }
        )
    return rows


def table(rows: list[dict], options: Options) -> str:
    """The counts, and the ranges of the errors."""
    lines = []
    for sort in SORTS:
        mine = [row for row in rows if row["sort"] == sort]
        errors = np.array([row["error"] for row in mine])
        sound = np.abs(errors) <= options.sound
        flagged = np.array([not row["sound"] for row in mine])
        lines.append(
            [
                sort,
                str(len(mine)),
                f"{errors.min():+.2f} … {errors.max():+.2f}",
                f"{flagged[~sound].sum()} of {(~sound).sum()}",
                f"{flagged[sound].sum()} of {sound.sum()}",
            ]
        )
    header = ["critic", "runs", "error of its ELBO", "flagged if broken", "flagged if sound"]
    return markdown_table(header, lines)


def main(options: Options) -> None:
    """Run what is missing, keep every run, write the table."""
    path = options.out / "broken_critics.json"
    settings = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "runs")}
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows = kept["rows"] if kept.get("settings") == settings else []
    done = {row["seed"] for row in rows}
    for seed in range(options.first_seed, options.first_seed + options.runs):
        if seed in done:
            continue
        rows += run(seed, options)
        write_json(path, {"settings": settings, "rows": rows})
        shown = (f"{r['sort']} {r['error']:+.2f} {'ok' if r['sound'] else 'X'}" for r in rows[-4:])
        print(seed, f"{time.process_time():.0f} s", " | ".join(shown), flush=True)
    told = (
        f"# Broken critics\n\n`python -m experiments.broken_critics`: {options.runs} problems from "
        f"seed {options.first_seed}; the tolerance of {options.tolerance} nats was chosen on "
        f"others. Errors in nats per datum; sound: off by at most {options.sound}, by the known "
        "density.\n\n"
    )
    (options.out / "broken_critics.md").write_text(told + table(rows, options))
    print(table(rows, options))


if __name__ == "__main__":
    main(tyro.cli(Options))
