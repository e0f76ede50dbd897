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


def _to_blocks(image: Float[Array, "h w c"]) -> Float[Array, "h2 w2 4c"]:
    """2×2 blocks of pixels as channels, one pixel of zeros around the image; one more each way."""
    height, width, channels = image.shape
    rows, columns = _half(height) + 1, _half(width) + 1
    padding = ((1, BLOCK * rows - height - 1), (1, BLOCK * columns - width - 1), (0, 0))
    blocks = jnp.pad(image, padding).reshape(rows, BLOCK, columns, BLOCK, channels)
    return jnp.moveaxis(blocks, 2, 1).reshape(rows, columns, BLOCK**2 * channels)


def _from_blocks(
    blocks: Float[Array, "h w 4c"], height: int, width: int
) -> Float[Array, "h2 w2 c"]:
    """The inverse of :func:`_to_blocks`, cut to a stated height and width."""
    rows, columns, depth = blocks.shape
    channels = depth // BLOCK**2
    split = jnp.moveaxis(blocks.reshape(rows, columns, BLOCK, BLOCK, channels), 2, 1)
    pixels = split.reshape(BLOCK * rows, BLOCK * columns, channels)
    return pixels[1 : 1 + height, 1 : 1 + width]


def _convolve(linear: eqx.nn.Linear, image: Float[Array, "h w c"]) -> Float[Array, "h1 w1 o"]:
    """A linear map of each 2×2 neighbourhood: one row and one column fewer."""
    assert linear.bias is not None
    height, width = image.shape[0] - 1, image.shape[1] - 1
    slices = [image[i : i + height, j : j + width] for i in range(KERNEL) for j in range(KERNEL)]
    return jnp.concatenate(slices, axis=-1) @ linear.weight.T + linear.bias[None, None, :]


class _Conv(eqx.Module):
    """A 4×4 convolution of stride 2, ``(h, w, c)`` to ``(⌈h/2⌉, ⌈w/2⌉, out)``."""

    linear: eqx.nn.Linear

    def __init__(self, channels: int, out: int, *, key: Key):
        self.linear = eqx.nn.Linear(KERNEL**2 * BLOCK**2 * channels, out, key=key)

    def __call__(self, image: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        return _convolve(self.linear, _to_blocks(image))


class _TransposedConv(eqx.Module):
    """A 4×4 transposed convolution of stride 2, to a stated height and width."""

    linear: eqx.nn.Linear
    height: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(self, channels: int, out: int, *, height: int, width: int, key: Key):
        self.linear = eqx.nn.Linear(KERNEL**2 * channels, BLOCK**2 * out, key=key)
        self.height = height
        self.width = width

    def __call__(self, image: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
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
        hidden = (x.reshape(self.image_shape) - self.shift) / self.scale
        for convolution in self.convolutions:
            hidden = jax.nn.silu(convolution(hidden))
        return jax.nn.silu(self.dense(jnp.ravel(hidden)))


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
        hidden = self.dense(z).reshape(self.seed_shape)
        for convolution in self.convolutions[:-1]:
            hidden = jax.nn.silu(convolution(hidden))
        image = self.convolutions[-1](hidden)
        height, columns, _ = image.shape
        parameters = self.out_shape[0]
        split = image.reshape(height, columns, parameters, -1)
        return jnp.moveaxis(split, 2, 0).reshape(self.out_shape)
