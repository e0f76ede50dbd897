"""A residual network with a quadratic skip and a zero-initialised output."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Datum, Features, Key, Latent, Scalar
from avb.critics._base import AbstractCritic
from avb.nets._affine import affine


class AbstractResidualCritic(AbstractCritic):
    """Residual blocks over (features of x, whitened z), squares of z, and outputs of zero.

    Args:
        feature_size: Length of the feature vector, of the posterior or of ``encoder``.
        latent_dim: Number of latent dimensions d.
        outputs: Number of outputs, all linear in the same hidden units and squares.
        encoder: The critic's own features of one datum; ``None`` reads the posterior's.
        width: Hidden units.
        depth: Number of residual blocks.
        key: PRNG key.
    """

    encoder: Callable | None
    datum: eqx.nn.Linear
    latent: eqx.nn.Linear
    blocks: list[eqx.nn.Linear]
    projection: eqx.nn.Linear
    output: eqx.nn.Linear
    width: int = eqx.field(static=True)

    def __init__(
        self,
        feature_size: int,
        latent_dim: int,
        *,
        outputs: int | Literal["scalar"],
        encoder: Callable | None,
        width: int,
        depth: int,
        key: Key,
    ):
        squares = 2 * latent_dim
        keys = jax.random.split(key, 4 + depth)
        self.encoder = encoder
        self.datum = eqx.nn.Linear(feature_size, width + squares, key=keys[0])
        self.latent = eqx.nn.Linear(latent_dim, width, use_bias=False, key=keys[1])
        self.projection = eqx.nn.Linear(latent_dim, squares, use_bias=False, key=keys[2])
        self.blocks = [eqx.nn.Linear(width, width, key=k) for k in keys[4:]]
        output = eqx.nn.Linear(width + 2 * squares + latent_dim, outputs, key=keys[3])
        self.output = jax.tree.map(jnp.zeros_like, output)
        self.width = width

    def features(self, x: Datum, posterior_features: Features) -> Float[Array, " c"]:
        seen = posterior_features if self.encoder is None else self.encoder(x)
        return self.datum(seen)

    def outputs(self, features: Float[Array, " c"], white: Latent) -> Float[Array, "..."]:
        """All outputs at one whitened latent vector."""
        hidden = features[: self.width] + affine(self.latent, white)
        for block in self.blocks:
            hidden = hidden + affine(block, jax.nn.silu(hidden))
        squares = affine(self.projection, white) ** 2
        gated = features[self.width :] * squares
        return self.output(jnp.concatenate([jax.nn.silu(hidden), gated, squares, white]))


class ResidualCritic(AbstractResidualCritic):
    """T(x, z) from residual blocks over (features of x, whitened z), plus a quadratic form.

    The output layer starts at zero: at step 0 T = 0, and the ELBO is that of the contrast.
    The quadratic part, Σⱼ cⱼ(x) (pⱼ·z)², is exact where q and r are both Gaussian.

    By default the critic reads the posterior's own features of x: q(z|x) is a function of
    them, so log q − log r is one too, and no second encoder has to find them again. With
    ``encoder`` it has its own (fully connected, convolutional or the user's).

    Args:
        feature_size: Length of the feature vector, of the posterior or of ``encoder``.
        latent_dim: Number of latent dimensions d.
        encoder: The critic's own features of one datum; ``None`` reads the posterior's.
        width: Hidden units.
        depth: Number of residual blocks.
        key: PRNG key.
    """

    def __init__(
        self,
        feature_size: int,
        latent_dim: int,
        *,
        encoder: Callable | None = None,
        width: int = 128,
        depth: int = 2,
        key: Key,
    ):
        super().__init__(
            feature_size,
            latent_dim,
            outputs="scalar",
            encoder=encoder,
            width=width,
            depth=depth,
            key=key,
        )

    def evaluate(self, features: Float[Array, " c"], white: Latent) -> Scalar:
        return self.outputs(features, white)
