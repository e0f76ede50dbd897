"""Score estimators on posteriors of known shape."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Key, Latent, Scalar
from avb.evaluation._fresh_training import Arena, Corner
from avb.evaluation._proposals import moments, posterior_draws
from avb.scores import ScoreCritic, spectral_score, stein_score
from avb.scores._fit import Pair, smoothed_pair, train_score
from experiments._contests import FRESH_DRAWS, Budget
from experiments._critics import draws, relative
from experiments._shapes import DATA, ShapePosterior

KERNEL_DRAWS = 500
MOMENT_DRAWS = 512
ESTIMATORS = ("conditional", "smoothed", "Stein", "spectral")


def conditional_pair(corner: Corner, key: Key) -> tuple[Latent, Latent]:
    """A draw, and the score of its density given the noise that chooses the part."""
    posterior = corner.posterior
    assert isinstance(posterior, ShapePosterior)
    z, score = posterior.density(corner.features).draw_and_conditional_score(key)
    return z, corner.contrast.scale_tril.T @ score


def arena_of(posterior: ShapePosterior, key: Key) -> Arena:
    """The data, and the Gaussians with the moments of draws."""
    features = jnp.eye(DATA)

    def gaussian(features: Float[Array, " f"], key: Key):
        return moments(posterior_draws(posterior, features, key, MOMENT_DRAWS), 1.0)

    contrast = jax.vmap(gaussian)(features, jax.random.split(key, DATA))
    return Arena(posterior, features, jnp.zeros(DATA), jnp.ones(DATA), contrast)


def error_of(scores: Array, z: Array, posterior: ShapePosterior) -> Scalar:
    """Relative L2 error over all data, where q has covariance I; leading axes (data, draws)."""

    def turned(features: Array, scores: Array, z: Array):
        truth = posterior.density(features)
        return scores @ truth.matrix, jax.vmap(jax.grad(truth.log_prob))(z) @ truth.matrix

    return relative(*jax.vmap(turned)(jnp.eye(DATA), scores, z))


def fresh(posterior: ShapePosterior, key: Key, count: int) -> Float[Array, "n s d"]:
    """Draws of every datum."""

    def of_datum(features: Array, key: Key):
        return draws(posterior.density(features), key, count)

    return jax.vmap(of_datum)(jnp.eye(DATA), jax.random.split(key, DATA))


def critic_error(posterior: ShapePosterior, pair: Pair, budget: Budget, key: Key) -> Scalar:
    """Error of a score critic after as many steps as the other critics get."""
    key_arena, key_init, key_train, key_test = jax.random.split(key, 4)
    arena = arena_of(posterior, key_arena)
    critic = ScoreCritic(DATA, posterior.latent_dim, width=budget.width, key=key_init)
    critic = train_score(critic, arena, pair, key_train, budget.steps)
    z = fresh(posterior, key_test, FRESH_DRAWS)

    def scores(index: Array, z: Array):
        corner = arena.at(index)
        return jax.vmap(lambda z: critic.score(corner.seen, corner.contrast, z))(z)

    return error_of(jax.vmap(scores)(jnp.arange(DATA), z), z, posterior)


def kernel_error(posterior: ShapePosterior, name: str, key: Key) -> Scalar:
    """Error of an estimator without training, from 500 draws a datum.

    Stein's is that at the draws themselves, the spectral one's on fresh draws.
    """
    key_draws, key_test = jax.random.split(key)
    z = fresh(posterior, key_draws, KERNEL_DRAWS)
    if name == "Stein":
        return error_of(jax.vmap(stein_score)(z), z, posterior)
    points = fresh(posterior, key_test, FRESH_DRAWS)
    return error_of(jax.vmap(spectral_score)(z, points), points, posterior)


@eqx.filter_jit
def score_errors(
    posterior: ShapePosterior, keys: Key, name: str, budget: Budget
) -> Float[Array, " s"]:
    """Relative L2 error of one estimator of :data:`ESTIMATORS`, one a seed."""

    def seed(key: Key) -> Scalar:
        if name == "conditional":
            return critic_error(posterior, conditional_pair, budget, key)
        if name == "smoothed":
            return critic_error(posterior, smoothed_pair, budget, key)
        return kernel_error(posterior, name, key)

    return jax.vmap(seed)(keys)
