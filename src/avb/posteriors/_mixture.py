"""A posterior that is a finite mixture of Gaussians given the datum."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from avb._types import Features, Key, Latent, Shape
from avb.densities import DiagonalGaussian
from avb.densities._full_mixture import FullMixture
from avb.densities._scale import bounded_scale
from avb.posteriors._base import AbstractTractablePosterior, feature_size


class MixturePosterior(AbstractTractablePosterior):
    """q(z|x) = Σ_k w_k(x) N(z; m_k(x), Σ_k(x)), all of them affine in the features.

    It has a density and may have several modes, apart from each other, which a flow only
    bridges.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        components: Number of Gaussians.
        key: PRNG key.

    References:
        Bishop (1994), Mixture density networks, Aston University NCRG/94/004.
    """

    encoder: Callable
    head: eqx.nn.Linear
    latent_dim: int = eqx.field(static=True)
    components: int = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable,
        *,
        data_shape: Shape,
        latent_dim: int,
        components: int = 8,
        key: Key,
    ):
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.components = components
        key_head, key_loc = jax.random.split(key)
        each = 1 + 2 * latent_dim + latent_dim * (latent_dim - 1) // 2
        size = feature_size(encoder, data_shape)
        head = eqx.nn.Linear(size, components * each, key=key_head)
        # Apart at the start, or all of them would learn the same.
        bias = jnp.zeros((components, each))
        apart = jax.random.normal(key_loc, (components, latent_dim))
        bias = bias.at[:, 1 : 1 + latent_dim].set(apart).reshape(-1)
        self.head = eqx.tree_at(lambda h: h.bias, head, bias)

    def density(self, features: Features) -> FullMixture:
        d = self.latent_dim
        raw = self.head(features).reshape(self.components, -1)
        logits, loc, raw_scale, lower = jnp.split(raw, (1, 1 + d, 1 + 2 * d), axis=1)
        unit = jnp.zeros((self.components, d, d))
        rows, columns = jnp.tril_indices(d, -1)
        unit = unit.at[:, rows, columns].set(lower) + jnp.eye(d)[None]
        return FullMixture(logits[:, 0], loc, unit / bounded_scale(raw_scale)[:, :, None])

    def frame(self, features: Features) -> DiagonalGaussian:
        moments = self.density(features).moments()
        return DiagonalGaussian(moments.loc, 0.5 * jnp.log(jnp.sum(moments.scale_tril**2, axis=1)))

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)
