"""The convolutional networks' layers against JAX's own convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import avb
from avb.nets import ConvDecoder, ConvEncoder
from avb.nets._conv import _Conv, _TransposedConv
from avb.nets._rows import over_rows

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_a_convolution_is_one_of_kernel_four_and_stride_two(size):
    layer = _Conv(3, 5, key=jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, *size, 3))
    out = layer(images)
    # Axes of the weight: out, row and column of the block, row and column within, channel.
    weight = layer.linear.weight.reshape(5, 2, 2, 2, 2, 3)
    kernel = weight.transpose(1, 3, 2, 4, 5, 0).reshape(4, 4, 3, 5)
    padding = [(1, 1 + length % 2) for length in size]
    expected = lax.conv_general_dilated(images, kernel, (2, 2), padding, dimension_numbers=NHWC)
    np.testing.assert_allclose(out - layer.linear.bias[None, None, None], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_a_transposed_convolution_is_one_of_kernel_four_and_stride_two(size):
    height, width = size
    layer = _TransposedConv(3, 5, height=height, width=width, key=jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, -(-height // 2), -(-width // 2), 3))
    # Axes: row and column within the block, out, row and column of the neighbour, channel.
    weight = layer.linear.weight.reshape(2, 2, 5, 2, 2, 3)
    kernel = weight[::-1, ::-1].transpose(3, 0, 4, 1, 5, 2).reshape(4, 4, 3, 5)
    expected = lax.conv_general_dilated(
        images, kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=NHWC
    )[:, :height, :width]
    bias = layer.linear.bias.reshape(2, 2, 5)
    tiled = jnp.tile(bias[::-1, ::-1], (-(-height // 2), -(-width // 2), 1))[:height, :width]
    np.testing.assert_allclose(layer(images) - tiled[None], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (ConvEncoder((7, 5), channels=(2, 3), width=4, key=jax.random.key(0)), (7, 5)),
        (ConvDecoder(4, (2, 7, 5), channels=(3, 2), width=4, key=jax.random.key(0)), (4,)),
        (jnp.sin, (3,)),
    ],
    ids=["encoder", "decoder", "without a form for rows"],
)
def test_rows_are_as_one_by_one(network, shape):
    rows = jax.random.normal(jax.random.key(1), (3, *shape))
    expected = jnp.stack([network(row) for row in rows])
    np.testing.assert_allclose(over_rows(network)(rows), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(network)(rows), expected, atol=1e-6)


def test_channels_are_those_of_the_encoder_and_in_reverse_of_the_decoder():
    images = avb.Architecture((16, 16), network="conv", channels=(2, 3, 5, 7), width=4)
    key = jax.random.key(0)
    encoder, decoder = images.build_encoder(key=key), images.build_model(key=key).decoder
    assert [layer.linear.out_features for layer in encoder.convolutions] == [2, 3, 5, 7]
    ins = [layer.linear.in_features // 4 for layer in decoder.convolutions]
    assert (decoder.seed_shape, ins) == ((1, 1, 7), [7, 5, 3, 2])
