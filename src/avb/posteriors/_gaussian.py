"""Gaussian posteriors: the usual encoder, and one with correlations."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from avb._types import Features, Key, Latent, Shape
from avb.densities import DiagonalGaussian, FullGaussian
from avb.densities._scale import bounded_log_scale, bounded_scale
from avb.posteriors._base import AbstractTractablePosterior, feature_size


def diagonal_from(raw: Features, latent_dim: int) -> DiagonalGaussian:
    """A diagonal Gaussian from ``2 d`` unbounded numbers."""
    return DiagonalGaussian(raw[:latent_dim], bounded_log_scale(raw[latent_dim:]))


def full_from(raw: Features, latent_dim: int) -> FullGaussian:
    """A full-covariance Gaussian from ``2 d + d (d − 1) / 2`` unbounded numbers."""
    loc, raw_scale, lower = jnp.split(raw, (latent_dim, 2 * latent_dim))
    scale = bounded_scale(raw_scale)
    unit = jnp.zeros((latent_dim, latent_dim)).at[jnp.tril_indices(latent_dim, -1)].set(lower)
    # Rows of the factor scale with the marginal, so that one bounded number sets its size.
    return FullGaussian(loc, scale[:, None] * (unit + jnp.eye(latent_dim)))


def full_size(latent_dim: int) -> int:
    """Numbers that :func:`full_from` needs."""
    return 2 * latent_dim + latent_dim * (latent_dim - 1) // 2


class GaussianPosterior(AbstractTractablePosterior):
    """q(z|x) = N(μ(x), diag σ²(x)), the posterior of a plain variational autoencoder.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        key: PRNG key.
    """

    encoder: Callable
    head: eqx.nn.Linear
    latent_dim: int = eqx.field(static=True)

    def __init__(self, encoder: Callable, *, data_shape: Shape, latent_dim: int, key: Key):
        self.encoder = encoder
        self.head = eqx.nn.Linear(feature_size(encoder, data_shape), 2 * latent_dim, key=key)
        self.latent_dim = latent_dim

    def density(self, features: Features) -> DiagonalGaussian:
        return diagonal_from(self.head(features), self.latent_dim)

    def frame(self, features: Features) -> DiagonalGaussian:
        return self.density(features)

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)


class FullGaussianPosterior(AbstractTractablePosterior):
    """q(z|x) = N(μ(x), L(x) L(x)ᵀ), with correlated latent dimensions.

    It starts without correlations: the inverse of a triangular matrix with random entries below
    its diagonal grows exponentially with d, and the gradient of log q with it.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        key: PRNG key.
    """

    encoder: Callable
    head: eqx.nn.Linear
    latent_dim: int = eqx.field(static=True)

    def __init__(self, encoder: Callable, *, data_shape: Shape, latent_dim: int, key: Key):
        self.encoder = encoder
        size = full_size(latent_dim)
        head = eqx.nn.Linear(feature_size(encoder, data_shape), size, key=key)
        self.head = jax.tree.map(lambda leaf: leaf.at[2 * latent_dim :].set(0.0), head)
        self.latent_dim = latent_dim

    def density(self, features: Features) -> FullGaussian:
        return full_from(self.head(features), self.latent_dim)

    def frame(self, features: Features) -> DiagonalGaussian:
        return diagonal_from(self.head(features)[: 2 * self.latent_dim], self.latent_dim)

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)
