"""Training of critics on a posterior that stands still, over a contrast that does too."""

import math
from typing import Any, NamedTuple, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from avb._types import Datum, Features, Key, Scalar
from avb.critics import ResidualCritic
from avb.densities import FullGaussian
from avb.evaluation._batched import over_batches
from avb.evaluation._proposals import of_moments, posterior_draws
from avb.objectives import WeightedLogistic
from avb.posteriors import AbstractPosterior
from avb.training._descend import descend

NetworkOfFeatures = TypeVar("NetworkOfFeatures", bound=Any)

MOMENT_BLOCK = 512
MOMENT_ERROR = 0.02
WIDTH = 128
DEPTH = 2
RATE = 4e-3
BATCH_SIZE = 128
CONTRAST_DRAWS = 4


class Arena(eqx.Module):
    """Where critics are trained and tested: a frozen posterior and a fixed contrast.

    Attributes:
        posterior: q(z|x).
        features: The posterior's features of each datum, shape ``(n, f)``.
        shift: Mean of the features over the data.
        scale: Their standard deviation times the root of their number f: a network sees features
            that are standardised and divided by √f. A step of Adam moves all weights of a layer by
            about the rate, and so what f features of size one add to its output by f times as much:
            of 300 of them critics learnt nothing but to follow that.
        contrast: r(z|x), the Gaussian with the moments of many draws, stacked over the data.
    """

    posterior: AbstractPosterior
    features: Float[Array, "n f"]
    shift: Features
    scale: Features
    contrast: FullGaussian

    def at(self, index: Int32[Array, ""]) -> "Corner":
        """What belongs to one datum."""
        features = self.features[index]
        contrast = jax.tree.map(lambda leaf: leaf[index], self.contrast)
        return Corner(self.posterior, features, (features - self.shift) / self.scale, contrast)


class Corner(NamedTuple):
    """One datum's part of an arena."""

    posterior: AbstractPosterior
    features: Features
    seen: Features
    contrast: FullGaussian

    def posterior_draws(self, key: Key, count: int) -> Float[Array, "s d"]:
        """Draws of q(z|x)."""
        return posterior_draws(self.posterior, self.features, key, count)

    def contrast_draws(self, key: Key, count: int) -> Float[Array, "s d"]:
        """Draws of r(z|x)."""
        return jax.vmap(self.contrast.sample)(jax.random.split(key, count))

    def values(self, critic: ResidualCritic, z: Float[Array, "s d"]) -> Float[Array, " s"]:
        """T(x, z) of one critic at several latent vectors."""
        features = critic.features(self.seen, self.seen)
        return jax.vmap(lambda z: critic.evaluate(features, self.contrast.whiten(z)))(z)


def contrast_of_draws(posterior: AbstractPosterior, features: Features, key: Key) -> FullGaussian:
    """The Gaussian with the moments of so many draws that their noise is 0.02 nats.

    The d(d + 3)/2 moments of M draws are off by KL ≈ d(d + 3)/(4M) on average, which no critic
    that is shared by all data can make good. Draws are taken in blocks, and none is kept.
    """
    dim = posterior.latent_dim
    wanted = dim * (dim + 3) / (4 * MOMENT_ERROR)
    keys = jax.random.split(key, max(1, math.ceil(wanted / MOMENT_BLOCK)))

    def block(key: Key) -> tuple[Array, Array]:
        draws = posterior_draws(posterior, features, key, MOMENT_BLOCK)
        loc = jnp.mean(draws, axis=0)
        centred = draws - loc[None, :]
        return loc, centred.T @ centred / MOMENT_BLOCK

    locs, within = lax.map(block, keys)
    loc = jnp.mean(locs, axis=0)
    between = locs - loc[None, :]
    covariance = jnp.mean(within, axis=0) + between.T @ between / len(keys)
    return of_moments(loc, covariance)


@eqx.filter_jit
def _contrasts(posterior, x, keys):
    def datum(x: Datum, key: Key):
        features = posterior.encoder(x)
        return features, contrast_of_draws(posterior, features, key)

    return jax.vmap(datum)(x, keys)


def prepare(posterior: AbstractPosterior, data: np.ndarray, *, key: Key, batch_size: int) -> Arena:
    """Features and contrast of all data, computed once."""
    features, contrast = over_batches(
        lambda x, keys: _contrasts(posterior, x, keys), data, key=key, batch_size=batch_size
    )
    shift, scale = np.mean(features, axis=0), np.std(features, axis=0)
    # A feature that is the same for all data says nothing, and must not be blown up.
    scale = np.where(scale > 1e-6, scale, 1.0) * math.sqrt(features.shape[1])
    features, shift, scale, contrast = jax.tree.map(jnp.asarray, (features, shift, scale, contrast))
    return Arena(posterior, features, shift, scale, contrast)


def for_divided_features(network: NetworkOfFeatures) -> NetworkOfFeatures:
    """An untrained network whose layer ``datum`` does to features / √f what it did to features.

    So it is the same at first, and what a step moves is √f times less.
    """
    weight = math.sqrt(network.datum.in_features) * network.datum.weight
    return eqx.tree_at(lambda network: network.datum.weight, network, weight)


def fresh_critic(arena: Arena, key: Key, *, quadratic: bool = True) -> ResidualCritic:
    """An untrained critic, T = 0.

    Args:
        arena: Where it is to be trained.
        key: PRNG key.
        quadratic: Whether its blocks see quadratic forms of z; see :class:`ResidualCritic`.
    """
    feature_size, latent_dim = arena.features.shape[1], arena.contrast.loc.shape[1]
    critic = ResidualCritic(
        feature_size, latent_dim, width=WIDTH, depth=DEPTH, quadratic=quadratic, key=key
    )
    return for_divided_features(critic)


@eqx.filter_jit
def train(critic: ResidualCritic, arena: Arena, key: Key, steps: int) -> ResidualCritic:
    """The critic trained on draws that are new at every step.

    Adam, its rate falling to zero along a cosine, on the weighted logistic objective.
    """
    parameters, static = eqx.partition(critic, eqx.is_inexact_array)

    def loss(parameters, key: Key) -> Scalar:
        critic = eqx.combine(parameters, static)
        key_index, key_draws = jax.random.split(key)
        index = jax.random.randint(key_index, (BATCH_SIZE,), 0, arena.features.shape[0])

        def datum(index, key: Key):
            key_q, key_r = jax.random.split(key)
            corner = arena.at(index)
            z = corner.posterior_draws(key_q, 1)
            z = jnp.concatenate([z, corner.contrast_draws(key_r, CONTRAST_DRAWS)])
            return corner.values(critic, z)

        values = jax.vmap(datum)(index, jax.random.split(key_draws, BATCH_SIZE))
        return WeightedLogistic().loss(values[:, 0], values[:, 1:])

    parameters = descend(loss, parameters, key, steps=steps, rate=RATE)
    return eqx.combine(cast(ResidualCritic, parameters), static)
