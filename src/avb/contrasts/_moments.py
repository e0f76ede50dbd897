"""Adaptive contrast: a Gaussian with the Monte Carlo moments of the posterior."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from avb._errors import ConfigError
from avb._types import Features, Key
from avb.contrasts._base import AbstractContrast
from avb.densities import DiagonalGaussian, FullGaussian
from avb.posteriors import AbstractPosterior

# One ε for every variance, as a share of the variance itself: the scale of z is the model's.
RELATIVE_JITTER = 1e-3


class MomentContrast(AbstractContrast):
    """r(z|x): a Gaussian with mean and covariance of fresh draws from q(z|x).

    With few draws the moments are noisy, and the critic sees a different r at each step.

    Args:
        covariance: ``"diagonal"`` or ``"full"``.
        num_draws: Posterior draws a datum; for full covariance more than ``d``.

    Raises:
        ConfigError: An unknown covariance, or too few draws.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, section 3.3.
    """

    covariance: Literal["diagonal", "full"] = eqx.field(static=True, default="diagonal")
    num_draws: int = eqx.field(static=True, default=32)
    is_learned: ClassVar[bool] = False

    def __check_init__(self):
        if self.covariance not in ("diagonal", "full"):
            raise ConfigError(
                f"covariance of the moment contrast: expected 'diagonal' or 'full', "
                f"got {self.covariance!r}"
            )
        if self.num_draws < 2:
            raise ConfigError(
                f"draws of the moment contrast: expected at least 2, got {self.num_draws}"
            )

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> DiagonalGaussian | FullGaussian:
        keys = jax.random.split(key, self.num_draws)
        draws = jax.vmap(posterior.draw, in_axes=(None, 0))(features, keys)
        loc = jnp.mean(draws, axis=0)
        centred = draws - loc[None, :]
        # A variance that underflows has no logarithm, whatever the share added to it.
        variance = jnp.var(draws, axis=0, ddof=1) * (1.0 + RELATIVE_JITTER) + 1e-12
        if self.covariance == "diagonal":
            return DiagonalGaussian(loc, 0.5 * jnp.log(variance))
        covariance = centred.T @ centred / (self.num_draws - 1)
        jitter = jnp.diag(variance - jnp.diagonal(covariance))
        return FullGaussian(loc, jnp.linalg.cholesky(covariance + jitter))
