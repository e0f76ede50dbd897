"""Conditional normalizing-flow posterior."""

from collections.abc import Callable

import equinox as eqx

from avb._types import Features, Key, Latent, Shape
from avb.densities import DiagonalGaussian, FlowDensity
from avb.nets._flow import FlowHead
from avb.posteriors._base import AbstractTractablePosterior, feature_size


class FlowPosterior(AbstractTractablePosterior):
    """q(z|x): a diagonal Gaussian reshaped by coupling layers that see the features.

    Coupling layers are as quick to sample as to evaluate, both of which training needs.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d, at least 2.
        layers: Number of coupling layers.
        width: Hidden units of each layer's conditioner.
        key: PRNG key.

    Raises:
        ConfigError: Fewer than two latent dimensions: there is nothing to couple.

    References:
        Rezende & Mohamed (2015), https://arxiv.org/abs/1505.05770; Dinh et al. (2017),
        https://arxiv.org/abs/1605.08803.
    """

    encoder: Callable
    head: FlowHead
    latent_dim: int = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable,
        *,
        data_shape: Shape,
        latent_dim: int,
        layers: int = 4,
        width: int = 64,
        key: Key,
    ):
        self.encoder = encoder
        self.head = FlowHead(
            feature_size(encoder, data_shape), latent_dim, layers=layers, width=width, key=key
        )
        self.latent_dim = latent_dim

    def density(self, features: Features) -> FlowDensity:
        return self.head(features)

    def frame(self, features: Features) -> DiagonalGaussian:
        return self.density(features).base

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)
