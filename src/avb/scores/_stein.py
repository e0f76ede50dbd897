"""The score at draws from Stein's identity, without training."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._check import expect_positive
from avb.scores._kernel import kernel_of


def stein_score(draws: Float[Array, "n d"], *, ridge: float = 1.0) -> Float[Array, "n d"]:
    """∇ log q at draws of q: the field that fulfils Stein's identity for a Gaussian kernel.

    −(K + η I)⁻¹ ⟨∇, K⟩, in coordinates in which the draws have mean 0 and covariance I. The
    ridge shrinks the score towards 0, the more the farther out in q a draw lies.

    Args:
        draws: Draws of q(z|x) of one datum, shape ``(n, d)`` with n ≥ d + 2.
        ridge: η; the kernel is 1 at distance 0.

    Returns:
        The score at each draw, shape ``(n, d)``.

    Raises:
        ConfigError: Too few draws, or a ridge that is not positive.

    References:
        Li & Turner (2018), https://arxiv.org/abs/1705.07107, eq. 7.
    """
    expect_positive("ridge of the Stein estimator", ridge)
    kernel = kernel_of(draws)
    values = kernel.between(kernel.white)
    slopes = kernel.slope(values, kernel.white)
    held = values + ridge * jnp.eye(len(draws))
    return kernel.from_white(-jnp.linalg.solve(held, slopes))
