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
from avb.posteriors._gaussian import full_size


def mixture_from(raw: Features, components: int, latent_dim: int) -> FullMixture:
    """A mixture of full-covariance Gaussians from :func:`mixture_size` unbounded numbers."""
    d = latent_dim
    logits, loc, raw_scale, lower = jnp.split(
        raw.reshape(components, -1), (1, 1 + d, 1 + 2 * d), axis=1
    )
    unit = jnp.zeros((components, d, d))
    rows, columns = jnp.tril_indices(d, -1)
    unit = unit.at[:, rows, columns].set(lower) + jnp.eye(d)[None]
    return FullMixture(logits[:, 0], loc, unit / bounded_scale(raw_scale)[:, :, None])


def mixture_size(components: int, latent_dim: int) -> int:
    """Numbers that :func:`mixture_from` needs."""
    return components * (1 + full_size(latent_dim))


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
        numbers = mixture_size(components, latent_dim)
        head = eqx.nn.Linear(feature_size(encoder, data_shape), numbers, key=key_head)
        # Apart at the start, or all of them would learn the same.
        bias = jnp.zeros((components, numbers // components))
        apart = jax.random.normal(key_loc, (components, latent_dim))
        bias = bias.at[:, 1 : 1 + latent_dim].set(apart).reshape(-1)
        self.head = eqx.tree_at(lambda h: h.bias, head, bias)

    def density(self, features: Features) -> FullMixture:
        return mixture_from(self.head(features), self.components, self.latent_dim)

    def frame(self, features: Features) -> DiagonalGaussian:
        moments = self.density(features).moments()
        return DiagonalGaussian(moments.loc, 0.5 * jnp.log(jnp.sum(moments.scale_tril**2, axis=1)))

    def draw(self, features: Features, key: Key) -> Latent:
        return self.density(features).sample(key)
