"""Denoising score matching on a posterior that stands still."""

from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from avb._check import expect_positive
from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.evaluation._batched import check_data
from avb.evaluation._fresh_training import Arena, Corner, for_divided_features, prepare
from avb.posteriors import AbstractPosterior, SemiImplicitPosterior
from avb.scores._critic import ScoreCritic
from avb.training._descend import descend

WIDTH = 128
RATE = 4e-3
BATCH_SIZE = 256
# Of a coordinate's standard deviation: noise of this size changes no more than such detail.
SMOOTHING = 0.05

# One draw z of a datum, and in the whitened coordinates a vector whose mean given z is the score.
Pair = Callable[[Corner, Key], tuple[Latent, Latent]]


def conditional_pair(corner: Corner, key: Key) -> tuple[Latent, Latent]:
    """A draw of a semi-implicit posterior, and the score of the conditional that made it.

    E[∇_z log q(z|x, ε) | z] = ∇_z log q(z|x), without error (Vincent 2011, section 4).
    """
    posterior = corner.posterior
    assert isinstance(posterior, SemiImplicitPosterior)
    key_noise, key_z = jax.random.split(key)
    noise = jax.random.normal(key_noise, (posterior.noise_dim,))
    conditional = posterior.conditional(corner.features, noise)
    z = conditional.sample(key_z)
    return z, corner.contrast.scale_tril.T @ jax.grad(conditional.log_prob)(z)


def smoothed_pair(corner: Corner, key: Key) -> tuple[Latent, Latent]:
    """A draw of any posterior plus a little noise, and the score of that noise."""
    key_z, key_noise = jax.random.split(key)
    noise = jax.random.normal(key_noise, corner.contrast.loc.shape)
    z = corner.posterior.draw(corner.features, key_z)
    return z + SMOOTHING * corner.contrast.scale_tril @ noise, -noise / SMOOTHING


class FittedScore(eqx.Module):
    """S(x, z) for the data that it was fitted on.

    Attributes:
        arena: The posterior, and the Gaussian with the moments of each datum's draws.
        critic: The trained network.
    """

    arena: Arena
    critic: ScoreCritic

    def score(self, index: Int32[Array, ""], z: Float[Array, "s d"]) -> Float[Array, "s d"]:
        """S at several latent vectors of one datum.

        Args:
            index: Number of the datum, from 0.
            z: Shape ``(s, d)``.
        """
        corner = self.arena.at(index)
        return jax.vmap(lambda z: self.critic.score(corner.seen, corner.contrast, z))(z)


def untrained(arena: Arena, key: Key) -> ScoreCritic:
    """A network that gives the score of the arena's Gaussians."""
    feature_size, latent_dim = arena.features.shape[1], arena.contrast.loc.shape[1]
    return for_divided_features(ScoreCritic(feature_size, latent_dim, width=WIDTH, key=key))


@eqx.filter_jit
def train_score(critic: ScoreCritic, arena: Arena, pair: Pair, key: Key, steps: int) -> ScoreCritic:
    """The critic after Adam on E‖S − target‖², in whitened coordinates, of new draws."""
    parameters, static = eqx.partition(critic, eqx.is_inexact_array)

    def loss(parameters, key: Key) -> Scalar:
        critic: ScoreCritic = eqx.combine(parameters, static)
        key_index, key_pairs = jax.random.split(key)
        index = jax.random.randint(key_index, (BATCH_SIZE,), 0, arena.features.shape[0])

        def missed(index, key: Key) -> Scalar:
            corner = arena.at(index)
            z, target = pair(corner, key)
            got = critic.white_score(corner.seen, corner.contrast.whiten(z))
            return jnp.sum((got - target) ** 2)

        return jnp.mean(jax.vmap(missed)(index, jax.random.split(key_pairs, BATCH_SIZE)))

    parameters = descend(loss, parameters, key, steps=steps, rate=RATE, averaged=0.25)
    return cast(ScoreCritic, eqx.combine(parameters, static))


def fit_score(
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    steps: int = 3000,
    batch_size: int = 64,
) -> FittedScore:
    """The score of q(z|x) at given data, by denoising score matching.

    A semi-implicit posterior's conditionals give targets whose mean is the score of q itself.
    Draws of any other posterior get Gaussian noise of 0.05 of their scale: the score is then
    that of the posterior smoothed so much.

    The targets are as noisy as the conditionals are narrow. It is an estimator of the score
    alone: for a number in nats use a critic or a bracket.

    Args:
        posterior: q(z|x), only sampled.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        steps: Training steps, on 256 draws each.
        batch_size: Data at a time while their moments are found.

    Returns:
        S at these data.

    Raises:
        ConfigError: No steps.
        DataError: No data, or not finite.

    References:
        Vincent (2011), Neural Computation 23(7), eq. 11; Lim, Courville, Pal & Huang (2020),
        https://arxiv.org/abs/2006.05164, for posteriors.
    """
    if steps < 1:
        raise ConfigError(f"steps of the score critic: expected at least 1, got {steps}")
    expect_positive("batch_size", batch_size)
    data = check_data(data, np.shape(data)[1:])
    key_moments, key_init, key_train = jax.random.split(key, 3)
    arena = prepare(posterior, data, key=key_moments, batch_size=batch_size)
    critic = untrained(arena, key_init)
    pair = conditional_pair if isinstance(posterior, SemiImplicitPosterior) else smoothed_pair
    return FittedScore(arena, train_score(critic, arena, pair, key_train, steps))
