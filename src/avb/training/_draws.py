"""Posterior draws of a batch, a row each, and what goes with them, as many rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from avb._method import Method
from avb._types import Key


def repeated(tree: PyTree, times: int, axes: PyTree = 0) -> PyTree:
    """Every row so many times, one after the other; leaves whose axis is ``None`` as they are."""
    if times == 1:
        return tree

    def of_axis(axis, leaves):
        return leaves if axis is None else jax.tree.map(rows, leaves)

    def rows(leaf):
        return jnp.repeat(leaf, times, axis=0)

    return jax.tree.map(of_axis, axes, tree, is_leaf=lambda axis: axis is None)


def drawn(
    method: Method, features: Float[Array, "n f"], key: Key, *, times: int = 1
) -> Float[Array, "r d"]:
    """So many times ``posterior_draws`` draws of each datum's posterior, a row each."""
    count = method.posterior_draws * times
    keys = jax.random.split(key, len(features) * count)
    return jax.vmap(method.posterior.draw)(repeated(features, count), keys)
