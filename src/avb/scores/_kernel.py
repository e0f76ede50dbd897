"""What the kernel estimators share: whitened draws and a Gaussian kernel between them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Scalar
from avb.densities import FullGaussian
from avb.evaluation._proposals import moments
from avb.scores._critic import from_white


class Kernel(NamedTuple):
    """A Gaussian kernel exp(−‖a − b‖² / 2h²) in the whitened coordinates of draws.

    Attributes:
        gaussian: With the moments of the draws; it whitens.
        white: The draws, whitened, shape ``(n, d)``.
        bandwidth: h, the median distance between them.
    """

    gaussian: FullGaussian
    white: Float[Array, "n d"]
    bandwidth: Scalar

    def between(self, points: Float[Array, "m d"]) -> Float[Array, "m n"]:
        """Values between whitened points and the draws."""
        return jnp.exp(-0.5 * squared_distances(points, self.white) / self.bandwidth**2)

    def slope(self, values: Float[Array, "m n"], points: Float[Array, "m d"]) -> Array:
        """Σ_j ∇_{b_j} k(a_i, b_j) of each point a_i over the draws b_j, shape ``(m, d)``."""
        total = jnp.sum(values, axis=1, keepdims=True)
        return (total * points - values @ self.white) / self.bandwidth**2

    def from_white(self, scores: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Scores in z from those in whitened coordinates."""
        return jax.vmap(from_white, in_axes=(None, 0))(self.gaussian.scale_tril, scores)


def squared_distances(a: Float[Array, "m d"], b: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """All squared distances."""
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :]
    return jnp.maximum(squares - 2.0 * a @ b.T, 0.0)


def kernel_of(draws: Float[Array, "n d"]) -> Kernel:
    """The kernel with the median bandwidth.

    Raises:
        ConfigError: Fewer than d + 2 draws, which have no covariance of full rank.
    """
    count, dim = draws.shape
    if count < dim + 2:
        raise ConfigError(
            f"draws of a kernel estimator in {dim} dimensions: expected at least {dim + 2}, "
            f"got {count}"
        )
    gaussian = moments(draws, 1.0)
    white = jax.vmap(gaussian.whiten)(draws)
    return Kernel(gaussian, white, jnp.sqrt(jnp.median(squared_distances(white, white))))
