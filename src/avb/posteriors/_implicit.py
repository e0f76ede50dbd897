"""Purely implicit posteriors z = g(x, ε): samplers without a density."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from avb._errors import ConfigError
from avb._types import Features, Key, Latent, Noise, Shape
from avb.densities import DiagonalGaussian
from avb.densities._scale import MAX_SHIFT, bounded_log_scale, bounded_shift
from avb.nets._affine import affine, forward
from avb.nets._mlp import with_zero_output
from avb.posteriors._base import AbstractImplicitPosterior, feature_size
from avb.posteriors._gaussian import diagonal_from


class ImplicitPosterior(AbstractImplicitPosterior):
    """z = g(x, ε) with the noise as an input of the network.

    g is a location-scale map of the first d noise variables plus a network of features
    and all noise variables. The first part makes training start as a Gaussian posterior
    would; the second bends it into any shape. Draws for one datum share its features.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        noise_dim: Number of noise variables of g, at least d; by default ``2 d``.
        floor: Scale of Gaussian noise, d more variables, that is added to g(x, ε), in units of
            the location-scale map; 0 adds none. It keeps q from folding itself into
            sheets that a critic cannot see, see :func:`avb.evaluation.thickness`.
        reach: How far the network may move a draw, in the same units. Posteriors of many bends
            need room; with little of it the floor stays a fixed share of what is spread.
        width: Hidden units of the noise network.
        depth: Hidden layers of the noise network.
        key: PRNG key.

    Raises:
        ConfigError: Fewer noise variables than latent dimensions: q would have no density;
            or a floor below 0, or a reach of 0 or less, or infinite ones.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, fig. 2.
    """

    encoder: Callable
    head: eqx.nn.Linear
    network: eqx.nn.MLP
    latent_dim: int = eqx.field(static=True)
    noise_dim: int = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    reach: float = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable,
        *,
        data_shape: Shape,
        latent_dim: int,
        noise_dim: int | None = None,
        floor: float = 0.0,
        reach: float = MAX_SHIFT,
        width: int = 128,
        depth: int = 2,
        key: Key,
    ):
        noise_dim = 2 * latent_dim if noise_dim is None else noise_dim
        if noise_dim < latent_dim:
            raise ConfigError(
                f"noise variables of an implicit posterior: expected at least latent_dim = "
                f"{latent_dim}, got {noise_dim}; with fewer its draws fill no volume"
            )
        if not 0.0 <= floor < math.inf:
            raise ConfigError(f"floor of an implicit posterior: expected zero or more, got {floor}")
        if not 0.0 < reach < math.inf:
            raise ConfigError(
                f"reach of an implicit posterior: expected a positive number, got {reach}"
            )
        size = feature_size(encoder, data_shape)
        key_head, key_network = jax.random.split(key)
        self.encoder = encoder
        self.head = eqx.nn.Linear(size, 2 * latent_dim + width, key=key_head)
        network = eqx.nn.MLP(
            width + noise_dim, latent_dim, width, depth, activation=jax.nn.silu, key=key_network
        )
        self.network = with_zero_output(network)
        self.latent_dim = latent_dim
        self.noise_dim = noise_dim
        self.floor = floor
        self.reach = reach

    @property
    def noise_size(self) -> int:
        return self.noise_dim

    def transform(self, features: Features, noise: Noise) -> Latent:
        raw = self.head(features)
        frame = diagonal_from(raw[: 2 * self.latent_dim], self.latent_dim)
        inner = noise[: self.latent_dim] + bounded_shift(self._bend(raw, noise), self.reach)
        return frame.loc + jnp.exp(frame.log_scale) * inner

    def added_scale(self, features: Features) -> Latent | None:
        return self.floor * jnp.exp(self.frame(features).log_scale) if self.floor else None

    def _bend(self, raw: Features, noise: Noise) -> Latent:
        """The network of (features, noise); the features' part is shared by all draws."""
        condition = raw[2 * self.latent_dim :]
        first, *rest = self.network.layers
        assert first.bias is not None
        shared = condition @ first.weight[:, : condition.size].T + first.bias
        hidden = shared + noise @ first.weight[:, condition.size :].T
        for layer in rest:
            hidden = affine(layer, self.network.activation(hidden))
        return hidden

    def frame(self, features: Features) -> DiagonalGaussian:
        return diagonal_from(self.head(features)[: 2 * self.latent_dim], self.latent_dim)


class BasisPosterior(AbstractImplicitPosterior):
    """z = z₀(x) + Σᵢ aᵢ(x) ⊙ vᵢ(εᵢ), the encoder of the paper's image experiments.

    The noise networks vᵢ do not see the datum, so that moments of q(z|x) are cheap.

    Args:
        encoder: Features of one datum.
        data_shape: Shape of one datum.
        latent_dim: Number of latent dimensions d.
        num_basis: Number of noise networks.
        noise_dim: Noise variables of each network; by default d.
        width: Hidden units of each noise network.
        key: PRNG key.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, section 4 and
        supplement: the architecture with adaptive contrast.
    """

    encoder: Callable
    head: eqx.nn.Linear
    basis: eqx.nn.MLP
    latent_dim: int = eqx.field(static=True)
    num_basis: int = eqx.field(static=True)
    noise_dim: int = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable,
        *,
        data_shape: Shape,
        latent_dim: int,
        num_basis: int = 16,
        noise_dim: int | None = None,
        width: int = 64,
        key: Key,
    ):
        size = feature_size(encoder, data_shape)
        key_head, key_basis = jax.random.split(key)
        self.encoder = encoder
        self.head = eqx.nn.Linear(size, (1 + num_basis) * latent_dim, key=key_head)
        self.latent_dim = latent_dim
        self.num_basis = num_basis
        self.noise_dim = latent_dim if noise_dim is None else noise_dim

        def network(key: Key) -> eqx.nn.MLP:
            return eqx.nn.MLP(self.noise_dim, latent_dim, width, 2, activation=jax.nn.silu, key=key)

        self.basis = eqx.filter_vmap(network)(jax.random.split(key_basis, num_basis))

    @property
    def noise_size(self) -> int:
        return self.num_basis * self.noise_dim

    def transform(self, features: Features, noise: Noise) -> Latent:
        separate = noise.reshape(self.num_basis, self.noise_dim)
        vectors = eqx.filter_vmap(forward)(self.basis, separate)
        raw = self.head(features).reshape(1 + self.num_basis, self.latent_dim)
        return raw[0] + jnp.sum(raw[1:] * vectors, axis=0)

    def frame(self, features: Features) -> DiagonalGaussian:
        raw = self.head(features).reshape(1 + self.num_basis, self.latent_dim)
        variance = jnp.mean(raw[1:] ** 2, axis=0)
        return DiagonalGaussian(raw[0], bounded_log_scale(0.5 * jnp.log(variance + 1e-12)))

    def added_scale(self, features: Features) -> Latent | None:
        return None
