"""The score anywhere from eigenfunctions of a kernel, without training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb.scores._kernel import kernel_of


def spectral_score(
    draws: Float[Array, "n d"], points: Float[Array, "m d"], *, kept: float = 0.99
) -> Float[Array, "m d"]:
    """∇ log q at any points, expanded in the leading eigenfunctions of a Gaussian kernel.

    Integration by parts gives each coefficient as −E_q[∇ψ_j], with ψ_j from the
    eigenvectors of the kernel matrix of the draws (Nyström).

    Args:
        draws: Draws of q(z|x) of one datum, shape ``(n, d)`` with n ≥ d + 2.
        points: Where the score is asked for, shape ``(m, d)``.
        kept: Share of the eigenvalues' sum that the eigenfunctions in use hold.

    Returns:
        The score at each point, shape ``(m, d)``.

    Raises:
        ConfigError: Too few draws, or a share outside (0, 1).

    References:
        Shi, Sun & Zhu (2018), https://arxiv.org/abs/1806.02925, section 3.
    """
    if not 0.0 < kept < 1.0:
        raise ConfigError(f"share of the eigenvalues: expected a number in (0, 1), got {kept}")
    kernel = kernel_of(draws)
    count = float(len(draws))
    values, vectors = jnp.linalg.eigh(kernel.between(kernel.white))
    values, vectors = values[::-1], vectors[:, ::-1]
    # Those whose predecessors do not hold the share yet; the rest is mostly rounding error.
    before = jnp.cumsum(values) - values
    in_use = before < kept * jnp.sum(values)
    scale = jnp.sqrt(count) * in_use / jnp.maximum(values, values[0] * 1e-7)

    at_points = kernel.between(jax.vmap(kernel.gaussian.whiten)(points)) @ vectors * scale[None, :]
    # k is symmetric and its slope in one argument minus that in the other.
    slopes = kernel.slope(kernel.between(kernel.white), kernel.white)
    mean_slopes = (vectors.T @ slopes) * scale[:, None] / count
    return kernel.from_white(-at_points @ mean_slopes)
