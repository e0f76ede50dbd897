"""Convolutional encoder and decoder, as four slices and one matrix product a layer.

XLA's gradients of a convolution are slow on the CPU, inside a loop twenty times as slow again. A
4×4 convolution of stride 2 is a 2×2 one of stride 1 over 2×2 blocks of pixels, and its transpose a
2×2 convolution to such blocks (Shi et al. 2016, https://arxiv.org/abs/1609.05158). Both are four
contiguous slices, side by side, and one dense product, forwards and backwards.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Datum, Features, Key, Latent, Shape

KERNEL = 2
BLOCK = 2


def _image_shape(data_shape: Shape) -> tuple[int, int, int]:
    if len(data_shape) == 2:
        return (*data_shape, 1)
    if len(data_shape) == 3:
        return data_shape
    raise ConfigError(
        "a convolutional network needs images: expected data of shape (height, width) or "
        f"(height, width, channels), got {data_shape}; use network 'mlp' for other data"
    )


def _half(size: int) -> int:
    return -(-size // BLOCK)


def _to_blocks(images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 4c"]:
    """2×2 blocks of pixels as channels, one pixel of zeros around the image; one more each way."""
    count, height, width, channels = images.shape
    rows, columns = _half(height) + 1, _half(width) + 1
    around = ((0, 0), (1, BLOCK * rows - height - 1), (1, BLOCK * columns - width - 1), (0, 0))
    blocks = jnp.pad(images, around).reshape(count, rows, BLOCK, columns, BLOCK, channels)
    return jnp.moveaxis(blocks, 3, 2).reshape(count, rows, columns, BLOCK**2 * channels)


def _from_blocks(
    blocks: Float[Array, "n h w 4c"], height: int, width: int
) -> Float[Array, "n h2 w2 c"]:
    """The inverse of :func:`_to_blocks`, cut to a stated height and width."""
    count, rows, columns, depth = blocks.shape
    channels = depth // BLOCK**2
    split = jnp.moveaxis(blocks.reshape(count, rows, columns, BLOCK, BLOCK, channels), 3, 2)
    pixels = split.reshape(count, BLOCK * rows, BLOCK * columns, channels)
    return pixels[:, 1 : 1 + height, 1 : 1 + width]


def _convolve(linear: eqx.nn.Linear, images: Float[Array, "n h w c"]) -> Float[Array, "n h1 w1 o"]:
    """A linear map of each 2×2 neighbourhood: one row and one column fewer."""
    assert linear.bias is not None
    height, width = images.shape[1] - 1, images.shape[2] - 1
    around = [(i, j) for i in range(KERNEL) for j in range(KERNEL)]
    slices = [images[:, i : i + height, j : j + width] for i, j in around]
    neighbourhoods = jnp.concatenate(slices, axis=-1)
    # A matrix, since XLA's CPU code transposes what it sums over more than one axis of.
    matrix = neighbourhoods.reshape(-1, neighbourhoods.shape[-1])
    out = matrix @ linear.weight.T + linear.bias[None]
    return out.reshape(*neighbourhoods.shape[:-1], -1)


class _Conv(eqx.Module):
    """A 4×4 convolution of stride 2, ``(n, h, w, c)`` to ``(n, ⌈h/2⌉, ⌈w/2⌉, out)``."""

    linear: eqx.nn.Linear

    def __init__(self, channels: int, out: int, *, key: Key):
        self.linear = eqx.nn.Linear(KERNEL**2 * BLOCK**2 * channels, out, key=key)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        return _convolve(self.linear, _to_blocks(images))


class _TransposedConv(eqx.Module):
    """A 4×4 transposed convolution of stride 2, to a stated height and width."""

    linear: eqx.nn.Linear
    height: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(self, channels: int, out: int, *, height: int, width: int, key: Key):
        self.linear = eqx.nn.Linear(KERNEL**2 * channels, BLOCK**2 * out, key=key)
        self.height = height
        self.width = width

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return _from_blocks(_convolve(self.linear, padded), self.height, self.width)


class ConvEncoder(eqx.Module):
    """Features of one image: convolutions of stride 2, then a dense layer.

    Args:
        data_shape: ``(height, width)`` or ``(height, width, channels)``.
        channels: Output channels of each convolution.
        width: Number of features.
        shift: Subtracted from the input (the data's mean).
        scale: Divides the shifted input (the data's standard deviation).
        key: PRNG key.

    Raises:
        ConfigError: The data are no images.
    """

    convolutions: list[_Conv]
    dense: eqx.nn.Linear
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    shift: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        data_shape: Shape,
        *,
        channels: tuple[int, ...] = (16, 32, 32),
        width: int = 300,
        shift: float = 0.0,
        scale: float = 1.0,
        key: Key,
    ):
        self.image_shape = _image_shape(data_shape)
        key_dense, *keys = jax.random.split(key, len(channels) + 1)
        height, columns, depth = self.image_shape
        self.convolutions = []
        for out, key_layer in zip(channels, keys, strict=True):
            self.convolutions.append(_Conv(depth, out, key=key_layer))
            height, columns, depth = _half(height), _half(columns), out
        self.dense = eqx.nn.Linear(height * columns * depth, width, key=key_dense)
        self.shift = shift
        self.scale = scale

    def __call__(self, x: Datum) -> Features:
        """Features of shape ``(width,)`` of one image."""
        return self.of_rows(x[None])[0]

    def of_rows(self, x: Float[Array, "n ..."]) -> Float[Array, "n f"]:
        """Features of shape ``(n, width)`` of n images."""
        hidden = (x.reshape(-1, *self.image_shape) - self.shift) / self.scale
        for convolution in self.convolutions:
            hidden = jax.nn.silu(convolution(hidden))
        return jax.nn.silu(jax.vmap(self.dense)(hidden.reshape(len(x), -1)))


class ConvDecoder(eqx.Module):
    """Likelihood parameters of one latent vector: a dense layer, then transposed convolutions.

    Args:
        latent_dim: Number of latent dimensions.
        out_shape: ``(parameters, height, width)`` or ``(parameters, height, width, channels)``.
        channels: Input channels of each transposed convolution.
        width: Units of the first dense layer.
        key: PRNG key.

    Raises:
        ConfigError: The data are no images.
    """

    dense: eqx.nn.MLP
    convolutions: list[_TransposedConv]
    seed_shape: tuple[int, int, int] = eqx.field(static=True)
    out_shape: Shape = eqx.field(static=True)

    def __init__(
        self,
        latent_dim: int,
        out_shape: Shape,
        *,
        channels: tuple[int, ...] = (32, 32, 16),
        width: int = 300,
        key: Key,
    ):
        parameters, *data_shape = out_shape
        height, columns, depth = _image_shape(tuple(data_shape))
        sizes = [(height, columns)]
        for _ in channels:
            sizes.append((_half(sizes[-1][0]), _half(sizes[-1][1])))
        key_dense, *keys = jax.random.split(key, len(channels) + 1)
        self.seed_shape = (*sizes[-1], channels[0])
        self.dense = eqx.nn.MLP(
            latent_dim,
            math.prod(self.seed_shape),
            width,
            1,
            activation=jax.nn.silu,
            final_activation=jax.nn.silu,
            key=key_dense,
        )
        outs = (*channels[1:], parameters * depth)
        self.convolutions = [
            _TransposedConv(into, out, height=size[0], width=size[1], key=key_layer)
            for into, out, size, key_layer in zip(
                channels, outs, reversed(sizes[:-1]), keys, strict=True
            )
        ]
        self.out_shape = out_shape

    def __call__(self, z: Latent) -> Float[Array, "..."]:
        """Unbounded likelihood parameters of shape ``out_shape``."""
        return self.of_rows(z[None])[0]

    def of_rows(self, z: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        """Those of n latent vectors, of shape ``(n, *out_shape)``."""
        hidden = jax.vmap(self.dense)(z).reshape(-1, *self.seed_shape)
        for convolution in self.convolutions[:-1]:
            hidden = jax.nn.silu(convolution(hidden))
        images = self.convolutions[-1](hidden)
        count, height, columns, _ = images.shape
        split = images.reshape(count, height, columns, self.out_shape[0], -1)
        return jnp.moveaxis(split, 3, 1).reshape(count, *self.out_shape)
