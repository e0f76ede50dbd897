"""Fully connected encoder and decoder."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Datum, Features, Key, Latent, Shape
from avb.nets._affine import forward


def with_zero_output(network: eqx.nn.MLP) -> eqx.nn.MLP:
    """The same network with a last layer of zeros: what it adds to starts unchanged."""
    return eqx.tree_at(
        lambda net: net.layers[-1],
        network,
        jax.tree.map(jnp.zeros_like, network.layers[-1]),
    )


class MLPEncoder(eqx.Module):
    """Features of one datum: a fully connected network, flattened input, ``act`` at the end.

    Args:
        data_shape: Shape of one datum.
        width: Units of each hidden layer; also the number of features.
        depth: Number of hidden layers, at least 1.
        shift: Subtracted from the input (the data's mean).
        scale: Divides the shifted input (the data's standard deviation).
        key: PRNG key.
    """

    layers: eqx.nn.MLP
    shift: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        data_shape: Shape,
        *,
        width: int = 300,
        depth: int = 2,
        shift: float = 0.0,
        scale: float = 1.0,
        key: Key,
    ):
        self.layers = eqx.nn.MLP(
            math.prod(data_shape),
            width,
            width,
            depth - 1,
            activation=jax.nn.silu,
            final_activation=jax.nn.silu,
            key=key,
        )
        self.shift = shift
        self.scale = scale

    def __call__(self, x: Datum) -> Features:
        """Features of shape ``(width,)`` of one datum."""
        return forward(self.layers, (jnp.ravel(x) - self.shift) / self.scale)


class MLPDecoder(eqx.Module):
    """Likelihood parameters of one latent vector: a fully connected network.

    Args:
        latent_dim: Number of latent dimensions.
        out_shape: Shape of the output, ``(parameters, *data_shape)``.
        width: Units of each hidden layer.
        depth: Number of hidden layers, at least 1.
        key: PRNG key.
    """

    layers: eqx.nn.MLP
    out_shape: Shape = eqx.field(static=True)

    def __init__(
        self, latent_dim: int, out_shape: Shape, *, width: int = 300, depth: int = 2, key: Key
    ):
        self.layers = eqx.nn.MLP(
            latent_dim, math.prod(out_shape), width, depth, activation=jax.nn.silu, key=key
        )
        self.out_shape = out_shape

    def __call__(self, z: Latent) -> Float[Array, "..."]:
        """Unbounded likelihood parameters of shape ``out_shape``."""
        return forward(self.layers, z).reshape(self.out_shape)
