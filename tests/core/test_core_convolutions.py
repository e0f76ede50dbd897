"""The convolutional networks' layers against JAX's own convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from avb.nets._conv import _Conv, _TransposedConv

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_a_convolution_is_one_of_kernel_four_and_stride_two(size):
    layer = _Conv(3, 5, key=jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (*size, 3))
    out = layer(image)
    # Axes of the weight: out, row and column of the block, row and column within, channel.
    weight = layer.linear.weight.reshape(5, 2, 2, 2, 2, 3)
    kernel = weight.transpose(1, 3, 2, 4, 5, 0).reshape(4, 4, 3, 5)
    padding = [(1, 1 + length % 2) for length in size]
    expected = lax.conv_general_dilated(
        image[None], kernel, (2, 2), padding, dimension_numbers=NHWC
    )[0]
    np.testing.assert_allclose(out - layer.linear.bias[None, None], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_a_transposed_convolution_is_one_of_kernel_four_and_stride_two(size):
    height, width = size
    layer = _TransposedConv(3, 5, height=height, width=width, key=jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (-(-height // 2), -(-width // 2), 3))
    # Axes: row and column within the block, out, row and column of the neighbour, channel.
    weight = layer.linear.weight.reshape(2, 2, 5, 2, 2, 3)
    kernel = weight[::-1, ::-1].transpose(3, 0, 4, 1, 5, 2).reshape(4, 4, 3, 5)
    expected = lax.conv_general_dilated(
        image[None], kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=NHWC
    )[0][:height, :width]
    bias = layer.linear.bias.reshape(2, 2, 5)
    tiled = jnp.tile(bias[::-1, ::-1], (-(-height // 2), -(-width // 2), 1))[:height, :width]
    np.testing.assert_allclose(layer(image) - tiled, expected, atol=1e-5)
