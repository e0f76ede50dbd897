"""What gradients reach."""

import equinox as eqx
from jax import lax
from jaxtyping import PyTree


def stop(tree: PyTree) -> PyTree:
    """The same tree, held constant for every gradient."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(lax.stop_gradient(arrays), rest)
