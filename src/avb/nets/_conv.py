"""Convolutional encoder and decoder, as strided slices and one matrix product a layer.

XLA's gradients of a convolution are slow on the CPU. A strided convolution written as
one slice a kernel tap, concatenated over channels, and a single matrix product has the
same values and is a plain dense computation forwards and backwards.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Datum, Features, Key, Latent, Shape

KERNEL = 5
STRIDE = 2


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
    return -(-size // STRIDE)


def _patches(image: Float[Array, "h w c"]) -> Float[Array, "h2 w2 kkc"]:
    """The kernel window of every output position, flattened, with 'same' padding."""
    height, width, _ = image.shape
    before = KERNEL // 2
    padded = jnp.pad(image, ((before, before + STRIDE), (before, before + STRIDE), (0, 0)))
    rows, columns = _half(height), _half(width)
    slices = [
        padded[i : i + STRIDE * rows : STRIDE, j : j + STRIDE * columns : STRIDE]
        for i in range(KERNEL)
        for j in range(KERNEL)
    ]
    return jnp.concatenate(slices, axis=-1)


def _unpatch(patches: Float[Array, "h w kkc"], height: int, width: int) -> Float[Array, "h2 w2 c"]:
    """The transpose of :func:`_patches`: every window added back to where it was cut."""
    rows, columns, depth = patches.shape
    channels = depth // KERNEL**2
    shape = (height, width, channels)
    _, transpose = jax.vjp(_patches, jnp.zeros(shape, patches.dtype))
    return transpose(patches.reshape(rows, columns, depth))[0]


class _Conv(eqx.Module):
    """A 5×5 convolution of stride 2, ``(h, w, c)`` to ``(⌈h/2⌉, ⌈w/2⌉, out)``."""

    linear: eqx.nn.Linear

    def __init__(self, channels: int, out: int, *, key: Key):
        self.linear = eqx.nn.Linear(KERNEL**2 * channels, out, key=key)

    def __call__(self, image: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        assert self.linear.bias is not None
        return _patches(image) @ self.linear.weight.T + self.linear.bias[None, None, :]


class _TransposedConv(eqx.Module):
    """The transpose of a 5×5 convolution of stride 2, to a stated height and width."""

    linear: eqx.nn.Linear
    bias: Float[Array, " o"]
    height: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(self, channels: int, out: int, *, height: int, width: int, key: Key):
        self.linear = eqx.nn.Linear(channels, KERNEL**2 * out, use_bias=False, key=key)
        self.bias = jnp.zeros(out)
        self.height = height
        self.width = width

    def __call__(self, image: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        return (
            _unpatch(image @ self.linear.weight.T, self.height, self.width)
            + self.bias[None, None, :]
        )


class ConvEncoder(eqx.Module):
    """Features of one image: 5×5 convolutions of stride 2, then a dense layer.

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
