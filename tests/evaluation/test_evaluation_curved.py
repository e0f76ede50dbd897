"""A posterior that can only be sampled, as far as the library knows, with a known ELBO."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb import Method
from avb._types import Features, Key, Latent, Scalar
from avb.contrasts import AbstractContrast
from avb.critics import AbstractCritic
from avb.densities import DiagonalGaussian, FullGaussian
from avb.objectives import Logistic
from avb.posteriors import AbstractPosterior
from core.test_core_helpers import GAUSSIANS, LATENT_DIM, data

BEND = 0.9
X = data(16)


class Curved(AbstractPosterior):
    """z = loc(x) + L u, u = (ε₁, ε₂ + b (ε₁² − 1)): a banana around the true posterior."""

    encoder: Callable
    gain: Float[Array, "d x"]
    shift: Float[Array, " d"]
    scale_tril: Float[Array, "d d"]
    latent_dim: int = eqx.field(static=True, default=LATENT_DIM)

    def gaussian(self, features: Features) -> FullGaussian:
        return FullGaussian(self.gain @ features + self.shift, self.scale_tril)

    def draw(self, features: Features, key: Key) -> Latent:
        first, second = jax.random.normal(key, (LATENT_DIM,))
        gaussian = self.gaussian(features)
        bent = jnp.stack([first, second + BEND * (first**2 - 1.0)])
        return gaussian.loc + gaussian.scale_tril @ bent

    def frame(self, features: Features) -> DiagonalGaussian:
        gaussian = self.gaussian(features)
        return DiagonalGaussian(gaussian.loc, jnp.log(jnp.diagonal(gaussian.scale_tril)))

    def log_q(self, features: Features, z: Latent) -> Scalar:
        gaussian = self.gaussian(features)
        u = gaussian.whiten(z)
        straight = u.at[1].add(-BEND * (u[0] ** 2 - 1.0))
        return gaussian.log_prob(gaussian.loc + gaussian.scale_tril @ straight)


def curved() -> Curved:
    gain, shift, covariance = GAUSSIANS.posterior_map()
    arrays = (gain, shift, np.linalg.cholesky(covariance))
    return Curved(jnp.ravel, *(jnp.asarray(a, jnp.float32) for a in arrays))


def exact_elbo() -> np.ndarray:
    """Of each row of X: only the first two moments and the entropy matter."""
    gain, shift, covariance = GAUSSIANS.posterior_map()
    tril = np.linalg.cholesky(covariance)
    spread = tril @ np.diag([1.0, 1.0 + 2.0 * BEND**2]) @ tril.T
    # The bend has a Jacobian of 1, so the entropy is that of the unbent Gaussian.
    return GAUSSIANS.elbo(X, X @ gain.T + shift, spread) - 0.5 * np.log(1.0 + 2.0 * BEND**2)


class Matched(AbstractContrast):
    """The Gaussian with the moments of the curved posterior."""

    is_learned: ClassVar[bool] = False

    def condition(self, posterior, prior, features, key) -> FullGaussian:
        gaussian = posterior.gaussian(features)
        spread = jnp.asarray([1.0, np.sqrt(1.0 + 2.0 * BEND**2)], jnp.float32)
        return FullGaussian(gaussian.loc, gaussian.scale_tril * spread[None, :])


class Exact(AbstractCritic):
    """factor · (log q − log r) + shift; right for a factor of 1 and no shift."""

    posterior: Curved
    factor: Array
    shift: Array

    def features(self, x, posterior_features):
        return posterior_features

    def evaluate(self, features: Features, white: Latent) -> Scalar:
        contrast = Matched().condition(self.posterior, None, features, None)
        z = contrast.loc + contrast.scale_tril @ white
        ratio = self.posterior.log_q(features, z) - contrast.log_prob(z)
        return self.factor * ratio + self.shift


def method_with(*, factor: float = 1.0, shift: float = 0.0) -> Method:
    critic = Exact(curved(), jnp.float32(factor), jnp.float32(shift))
    return Method(GAUSSIANS.model(), curved(), Matched(), critic, Logistic())
