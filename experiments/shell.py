"""Fresh critics on a thin shell, by what their blocks see and how many features the datum has.

    python -m experiments.shell
    python -m experiments.shell --scores

q(z|x) lies within a tenth of a sphere's radius around x, in three dimensions, and its log density
is known: 0.99 nats from the Gaussian with its moments, which no linear or quadratic function of z
tells it from. Critics as :func:`avb.evaluation.fresh_critic_elbo` trains them, with and without
quadratic forms of z in their blocks, and with features of the datum as they are or divided by the
root of their number (the weights multiplied), for 256 data whose encoder gives x and so many random
features of it. The table has what each still misses, E_q[log q − log q̂] on fresh draws. With
``--scores``: the relative L2 error of the network S that :func:`avb.scores.fit_score` trains, with
features divided or not.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

from avb._types import Datum, Features, Key, Latent, Scalar
from avb.densities import DiagonalGaussian
from avb.evaluation._fresh import fix_density
from avb.evaluation._fresh_training import Arena, fresh_critic, prepare, train
from avb.posteriors import AbstractPosterior
from avb.scores._fit import FittedScore, smoothed_pair, train_score, untrained
from experiments._results import RESULTS, keep, markdown_table, spread

Network = TypeVar("Network", bound=Any)

DIM = 3
DATA = 256
THICKNESS = 0.1
BATCH = 64
FRESH_DRAWS = 256
SCORE_DRAWS = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
        features: Of the datum besides itself.
        steps: Of a critic.
        seeds: Critics of each sort.
        scores: Score networks in place of critics.
    """

    features: tuple[int, ...] = (300, 30, 0)
    steps: tuple[int, ...] = (300, 1000, 4000)
    seeds: tuple[int, ...] = (0, 1, 2)
    scores: bool = False


class RandomFeatures(eqx.Module):
    """The datum and rectified linear functions of it.

    Attributes:
        weights: Of shape ``(features, d)``.
    """

    weights: Float[Array, "f d"]

    def __call__(self, x: Datum) -> Features:
        return jnp.concatenate([x, jax.nn.relu(self.weights @ x)])


class Shell(AbstractPosterior):
    """z = x + (1 + 0.1 ε₀) ε / |ε|."""

    encoder: Callable
    latent_dim: int = eqx.field(static=True, default=DIM)

    def draw(self, features: Features, key: Key) -> Latent:
        noise = jax.random.normal(key, (DIM + 1,))
        direction = noise[1:] / jnp.linalg.norm(noise[1:])
        return features[:DIM] + (1.0 + THICKNESS * noise[0]) * direction

    def frame(self, features: Features) -> DiagonalGaussian:
        return DiagonalGaussian(features[:DIM], jnp.zeros(DIM))

    def log_q(self, features: Features, z: Latent) -> Scalar:
        """Log density, but for radii below zero, ten standard deviations away."""
        radius = jnp.linalg.norm(z - features[:DIM])
        off = jax.scipy.stats.norm.logpdf(radius, 1.0, THICKNESS)
        return off - jnp.log(4.0 * jnp.pi * radius**2)


def problem(features: int) -> tuple[Shell, np.ndarray]:
    """The posterior and its data."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(DATA, DIM)).astype(np.float32)
    weights = rng.normal(scale=3.0, size=(features, DIM)).astype(np.float32)
    return Shell(RandomFeatures(jnp.asarray(weights))), data


def undivided(arena: Arena, network: Network) -> tuple[Arena, Network]:
    """The same network of features that are not divided by the root of their number."""
    root = float(np.sqrt(arena.features.shape[1]))
    arena = eqx.tree_at(lambda arena: arena.scale, arena, arena.scale / root)
    weight = network.datum.weight / root
    return arena, eqx.tree_at(lambda network: network.datum.weight, network, weight)


def missed(arena: Arena, *, quadratic: bool, divided: bool, steps: int, key: Key) -> float:
    """E_q[log q − log q̂] of one critic, in nats, on draws that it was not trained on."""
    key_init, key_train, key_fix, key_test = jax.random.split(key, 4)
    critic = fresh_critic(arena, key_init, quadratic=quadratic)
    if not divided:
        arena, critic = undivided(arena, critic)
    critic = train(critic, arena, key_train, steps)
    density = fix_density(arena, (critic,), key=key_fix, batch_size=BATCH)

    @eqx.filter_jit
    def of_datum(density, index, key: Key) -> Scalar:
        corner = density.arena.at(index)
        z = corner.posterior_draws(key, FRESH_DRAWS)
        truth = jax.vmap(corner.posterior.log_q, in_axes=(None, 0))(corner.features, z)
        return jnp.mean(truth - density.log_prob(index, z))

    keys = jax.random.split(key_test, DATA)
    each = jax.lax.map(lambda one: of_datum(density, *one), (jnp.arange(DATA), keys))
    return float(jnp.mean(each))


def score_error(arena: Arena, *, divided: bool, steps: int, key: Key) -> float:
    """Relative L2 error of one network's score on draws that it was not trained on."""
    key_init, key_train, key_test = jax.random.split(key, 3)
    network = untrained(arena, key_init)
    if not divided:
        arena, network = undivided(arena, network)
    fitted = FittedScore(arena, train_score(network, arena, smoothed_pair, key_train, steps))

    def of_datum(index, key: Key) -> tuple[Scalar, Scalar]:
        corner = arena.at(index)
        z = corner.posterior_draws(key, SCORE_DRAWS)
        truth = jax.vmap(jax.grad(corner.posterior.log_q, argnums=1), in_axes=(None, 0))
        truth = truth(corner.features, z)
        return jnp.sum((fitted.score(index, z) - truth) ** 2), jnp.sum(truth**2)

    keys = jax.random.split(key_test, DATA)
    error, size = jax.lax.map(lambda one: of_datum(*one), (jnp.arange(DATA), keys))
    return float(jnp.sqrt(jnp.sum(error) / jnp.sum(size)))


def compare_scores(config: Config) -> None:
    """The table of score networks."""
    found: dict[str, list[float]] = {}
    for features in config.features:
        arena = prepare(*problem(features), key=jax.random.key(1), batch_size=BATCH)
        for divided, steps in itertools.product((False, True), config.steps):
            keys = [jax.random.key(2 + seed) for seed in config.seeds]
            values = [score_error(arena, divided=divided, steps=steps, key=key) for key in keys]
            name = " | ".join([str(features), "yes" if divided else "no", str(steps)])
            found[name] = [round(value, 4) for value in values]
            print(name, found[name], flush=True)
    rows = [[*name.split(" | "), spread(values)] for name, values in found.items()]
    header = ["features besides x", "divided", "steps", "error of the score"]
    keep(RESULTS / "shell_scores.json", found, markdown_table(header, rows))


def compare_critics(config: Config) -> None:
    """The table of critics."""
    found: dict[str, list[float]] = {}
    rows = []
    for features in config.features:
        posterior, data = problem(features)
        arena = prepare(posterior, data, key=jax.random.key(1), batch_size=BATCH)
        for divided, quadratic, steps in itertools.product(
            (False, True), (False, True), config.steps
        ):
            sort = {"divided": divided, "quadratic": quadratic, "steps": steps}
            keys = [jax.random.key(2 + seed) for seed in config.seeds]
            values = [missed(arena, **sort, key=key) for key in keys]
            blocks = "z and its quadratic forms" if quadratic else "z"
            rows.append(
                [str(features), "yes" if divided else "no", blocks, str(steps), spread(values)]
            )
            found[" | ".join(rows[-1][:-1])] = [round(value, 4) for value in values]
            print(" | ".join(rows[-1]), flush=True)
    header = ["features besides x", "divided", "blocks see", "steps", "missed, nats"]
    keep(RESULTS / "shell.json", found, markdown_table(header, rows))


def main(config: Config) -> None:
    compare_scores(config) if config.scores else compare_critics(config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
