"""Adaptive contrast without noise: the posterior's moments at fixed points of its noise."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats
from jaxtyping import Array, Float

from avb._check import expect_equal
from avb._errors import ConfigError
from avb._types import Features, Key
from avb.contrasts._base import AbstractContrast
from avb.densities import FullGaussian
from avb.posteriors import AbstractImplicitPosterior, AbstractPosterior

# As a share of each variance, so that a covariance without full rank has a factor.
RELATIVE_JITTER = 1e-4
FEWEST_ANCHORS = 32


def balanced_anchors(noise_size: int, num_anchors: int, seed: int) -> Float[Array, "k e"]:
    """Points of noise in pairs ±ε, whose covariance is the identity to rounding error.

    A map that is linear in the noise has its exact mean and covariance over them.
    """
    sampler = scipy.stats.qmc.MultivariateNormalQMC([0.0] * noise_size, rng=seed)
    count = num_anchors // 2
    # The sequence is balanced at powers of two, and complains at other lengths.
    half = sampler.random(1 << (count - 1).bit_length())[:count]
    factor = np.linalg.cholesky(half.T @ half / len(half))
    half = np.linalg.solve(factor, half.T).T
    return jnp.asarray(np.concatenate([half, -half]), jnp.float32)


class AnchoredMomentContrast(AbstractContrast):
    """r(z|x): a full Gaussian with mean and covariance of z = g(x, ε) over fixed points ε₁ … ε_K.

    The points are the same for all data and all steps. So r is a function of the datum
    without noise, unlike :class:`MomentContrast`, and follows each change of the posterior at
    once, unlike :class:`GaussianContrast`. The points come in pairs ±ε and have covariance I:
    where g is linear in the noise r has the moments of q exactly; what a bent g adds is a smooth
    function of x, left to the critic with the rest. The covariance of noise that the posterior
    adds to g is known, and takes no points.

    Args:
        noise_size: Noise variables of g.
        num_anchors: K, even and at least ``2 noise_size``; by default that and at least 32.
        seed: Seed of the Sobol sequence's scrambling.

    Raises:
        ConfigError: Too few points, or an odd number.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, section 3.3, for
        adaptive contrast; Julier & Uhlmann (1997), for moments at fixed points.
    """

    anchors: Float[Array, "k e"]
    is_learned: ClassVar[bool] = False

    def __init__(self, noise_size: int, *, num_anchors: int | None = None, seed: int = 0):
        least = 2 * noise_size
        count = max(least, FEWEST_ANCHORS) if num_anchors is None else num_anchors
        if count < least or count % 2:
            raise ConfigError(
                f"points of the anchored moment contrast: expected an even number, at least twice "
                f"the {noise_size} noise variables, got {count}"
            )
        self.anchors = balanced_anchors(noise_size, count, seed)

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> FullGaussian:
        if not isinstance(posterior, AbstractImplicitPosterior):
            raise ConfigError(
                "AnchoredMomentContrast: expected a posterior that is a map of noise "
                f"(ImplicitPosterior or BasisPosterior), got {type(posterior).__name__}; "
                "use MomentContrast or GaussianContrast"
            )
        expect_equal(
            "noise variables of AnchoredMomentContrast",
            posterior.noise_size,
            self.anchors.shape[1],
        )
        anchors = jax.lax.stop_gradient(self.anchors)
        draws = jax.vmap(posterior.transform, in_axes=(None, 0))(features, anchors)
        loc = jnp.mean(draws, axis=0)
        centred = draws - loc[None, :]
        covariance = centred.T @ centred / draws.shape[0]
        added = posterior.added_scale(features)
        if added is not None:
            covariance = covariance + jnp.diag(added**2)
        jitter = jnp.diag(RELATIVE_JITTER * jnp.diagonal(covariance) + 1e-12)
        return FullGaussian(loc, jnp.linalg.cholesky(covariance + jitter))
