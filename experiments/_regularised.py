"""Critics as generative adversarial networks steady them, and two with another way to see x."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Datum, Features, Key, Latent, Scalar
from avb.critics import AbstractCritic, ResidualCritic
from avb.evaluation._fresh_training import for_divided_features
from avb.objectives import AbstractObjective


def _own_key(white: Latent) -> Key:
    """A key made of the bits of a draw: a critic is given none, and no draw comes twice."""
    bits = jax.lax.bitcast_convert_type(white, jnp.uint32)
    return jax.random.fold_in(jax.random.key(bits[0]), bits[-1])


class DividedCritic(ResidualCritic):
    """It sees features divided by the root of their number, as fresh critics do."""

    def __init__(self, feature_size: int, latent_dim: int, **settings):
        super().__init__(feature_size, latent_dim, **settings)
        self.datum = for_divided_features(self).datum

    def features(self, x: Datum, posterior_features: Features) -> Float[Array, " c"]:
        return super().features(x, posterior_features / math.sqrt(posterior_features.size))


class NoisyCritic(ResidualCritic):
    """It learns from draws of q and r that have a little Gaussian noise added, and is used without.

    References:
        Sønderby et al. (2017), https://arxiv.org/abs/1610.04490 (instance noise).
    """

    noise: float = eqx.field(static=True)

    def __init__(self, *sizes: int, noise: float, width: int, key: Key):
        super().__init__(*sizes, width=width, key=key)
        self.noise = noise

    def _noisy(self, white: Latent) -> Latent:
        return white + self.noise * jax.random.normal(_own_key(white), white.shape)

    def pairs(
        self, features: Features, white_posterior: Latent, white_contrast: Array
    ) -> tuple[Array, Array]:
        noisy = jax.vmap(self._noisy)(white_contrast)
        return super().pairs(features, self._noisy(white_posterior), noisy)


class SlopeCritic(ResidualCritic):
    """It also tells |∇_z T|² at the posterior draw, as a last value on contrast draws."""

    def pairs(
        self, features: Features, white_posterior: Latent, white_contrast: Array
    ) -> tuple[Array, Array]:
        on_posterior, on_contrast = super().pairs(features, white_posterior, white_contrast)
        slope = jax.grad(self.evaluate, argnums=1)(features, white_posterior)
        return on_posterior, jnp.append(on_contrast, jnp.sum(slope**2)[None, None], axis=1)


class SlopePenalty(AbstractObjective):
    """Another objective plus γ/2 E_q|∇_z T|²; for :class:`SlopeCritic`.

    References:
        Mescheder, Geiger & Nowozin (2018), https://arxiv.org/abs/1801.04406, eq. 9 (R1).
    """

    objective: AbstractObjective
    gamma: float = eqx.field(static=True)

    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        penalty = 0.5 * self.gamma * jnp.mean(on_contrast[:, -1])
        return self.objective.loss(on_posterior, on_contrast[:, :-1]) + penalty

    def offset(self, on_contrast: Float[Array, "n m"]) -> Scalar:
        return self.objective.offset(on_contrast[:, :-1])


class FilmCritic(AbstractCritic):
    """Residual blocks over z whose units x scales and shifts, in place of a sum at the first layer.

    References:
        Perez et al. (2018), https://arxiv.org/abs/1709.07871.
    """

    datum: eqx.nn.Linear
    latent: eqx.nn.Linear
    blocks: list[eqx.nn.Linear]
    output: eqx.nn.Linear
    width: int = eqx.field(static=True)

    def __init__(self, feature_size: int, latent_dim: int, *, width: int, depth: int = 2, key: Key):
        keys = jax.random.split(key, 3 + depth)
        self.datum = eqx.nn.Linear(feature_size, 2 * width * (1 + depth), key=keys[0])
        self.latent = eqx.nn.Linear(latent_dim, width, key=keys[1])
        self.blocks = [eqx.nn.Linear(width, width, key=k) for k in keys[3:]]
        output = eqx.nn.Linear(width + latent_dim, "scalar", key=keys[2])
        self.output = jax.tree.map(jnp.zeros_like, output)
        self.width = width

    def features(self, x: Datum, posterior_features: Features) -> Float[Array, " c"]:
        return self.datum(posterior_features)

    def evaluate(self, features: Float[Array, " c"], white: Latent) -> Scalar:
        (scale, shift), *rest = features.reshape(-1, 2, self.width)
        hidden = (1.0 + scale) * self.latent(white) + shift
        for block, (scale, shift) in zip(self.blocks, rest, strict=True):
            hidden = hidden + (1.0 + scale) * block(jax.nn.silu(hidden)) + shift
        return self.output(jnp.concatenate([jax.nn.silu(hidden), white]))
