"""Affine layers with the example on the left of the product.

``layer(x)`` of Equinox is W x. Under one ``vmap`` XLA makes X Wᵀ of it; under two (draws within
data) its CPU code computes W Xᵀ and transposes the result, which costs as much as the product.
"""

import equinox as eqx
from jaxtyping import Array, Float


def affine(layer: eqx.nn.Linear, x: Float[Array, " i"]) -> Float[Array, " o"]:
    """What the layer gives, of one example."""
    out = x @ layer.weight.T
    return out if layer.bias is None else out + layer.bias


def forward(network: eqx.nn.MLP, x: Float[Array, " i"]) -> Float[Array, " o"]:
    """What the network gives, of one example; its activations have no parameters."""
    *hidden, last = network.layers
    for layer in hidden:
        x = network.activation(affine(layer, x))
    return network.final_activation(affine(last, x))
