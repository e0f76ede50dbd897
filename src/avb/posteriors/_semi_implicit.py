"""Semi-implicit posteriors: a continuous mixture of Gaussians, with bounds on its density."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Features, Key, Latent, Noise, Shape
from avb.densities import DiagonalGaussian
from avb.densities._scale import bounded_shift
from avb.nets._affine import affine, forward
from avb.posteriors._base import AbstractPosterior, feature_size
from avb.posteriors._gaussian import diagonal_from


class SemiImplicitPosterior(AbstractPosterior):
    """z = m(x, ε) + s(x, ε) ⊙ η with ε, η ~ N(0, I).

    Given ε it is Gaussian; over ε it is a continuous mixture of any shape. Mean and log
    scale are affine in the features plus a network of features and noise, so the many
    components for one datum cost little.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        noise_dim: Number of mixing variables ε; by default ``max(d, 4)``.
        width: Hidden units of the mixing network.
        depth: Hidden layers of the mixing network, at least 1.
        key: PRNG key.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183.
    """

    encoder: Callable
    head: eqx.nn.Linear
    mix: eqx.nn.Linear
    network: eqx.nn.MLP
    latent_dim: int = eqx.field(static=True)
    noise_dim: int = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable,
        *,
        data_shape: Shape,
        latent_dim: int,
        noise_dim: int | None = None,
        width: int = 64,
        depth: int = 1,
        key: Key,
    ):
        size = feature_size(encoder, data_shape)
        key_head, key_mix, key_network = jax.random.split(key, 3)
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.noise_dim = max(latent_dim, 4) if noise_dim is None else noise_dim
        self.head = eqx.nn.Linear(size, 2 * latent_dim + width, key=key_head)
        self.mix = eqx.nn.Linear(self.noise_dim, width, use_bias=False, key=key_mix)
        self.network = eqx.nn.MLP(
            width, 2 * latent_dim, width, depth - 1, activation=jax.nn.silu, key=key_network
        )

    def conditional(self, features: Features, noise: Noise) -> DiagonalGaussian:
        """q(z|x, ε), of which q(z|x) is the mixture over ε ~ N(0, I)."""
        raw = self.head(features)
        split = 2 * self.latent_dim
        frame = diagonal_from(raw[:split], self.latent_dim)
        hidden = jax.nn.silu(raw[split:] + affine(self.mix, noise))
        shift, log_shrink = jnp.split(forward(self.network, hidden), 2)
        return DiagonalGaussian(
            frame.loc + jnp.exp(frame.log_scale) * bounded_shift(shift),
            frame.log_scale + bounded_shift(log_shrink),
        )

    def frame(self, features: Features) -> DiagonalGaussian:
        return diagonal_from(self.head(features)[: 2 * self.latent_dim], self.latent_dim)

    def components(self, features: Features, noise: Float[Array, "k e"]) -> DiagonalGaussian:
        """The conditionals of several mixing variables, stacked along the first axis."""
        return jax.vmap(self.conditional, in_axes=(None, 0))(features, noise)

    def draw(self, features: Features, key: Key) -> Latent:
        key_noise, key_z = jax.random.split(key)
        noise = jax.random.normal(key_noise, (self.noise_dim,))
        return self.conditional(features, noise).sample(key_z)
