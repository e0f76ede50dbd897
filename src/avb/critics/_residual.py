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

# Quadratic forms a latent dimension, in the output alone and in the blocks as well.
IN_OUTPUT, IN_BLOCKS = 2, 4


class AbstractResidualCritic(AbstractCritic):
    """Residual blocks over (features of x, whitened z), squares of z, and outputs of zero.

    Args:
        feature_size: Length of the feature vector, of the posterior or of ``encoder``.
        latent_dim: Number of latent dimensions d.
        outputs: Number of outputs, all linear in the same hidden units and squares.
        encoder: The critic's own features of one datum; ``None`` reads the posterior's.
        width: Hidden units.
        depth: Number of residual blocks.
        quadratic: Whether the blocks see the squares, too, and twice as many of them.
        key: PRNG key.
    """

    encoder: Callable | None
    datum: eqx.nn.Linear
    latent: eqx.nn.Linear
    blocks: list[eqx.nn.Linear]
    projection: eqx.nn.Linear
    quadratic: eqx.nn.Linear | None
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
        quadratic: bool = False,
        key: Key,
    ):
        squares = (IN_BLOCKS if quadratic else IN_OUTPUT) * latent_dim
        keys = jax.random.split(key, 4 + depth)
        self.encoder = encoder
        self.datum = eqx.nn.Linear(feature_size, width + squares, key=keys[0])
        self.latent = eqx.nn.Linear(latent_dim, width, use_bias=False, key=keys[1])
        self.projection = eqx.nn.Linear(latent_dim, squares, use_bias=False, key=keys[2])
        self.blocks = [eqx.nn.Linear(width, width, key=k) for k in keys[4:]]
        self.quadratic = None
        if quadratic:
            key = jax.random.fold_in(key, 1)
            self.quadratic = eqx.nn.Linear(2 * squares, width, use_bias=False, key=key)
        output = eqx.nn.Linear(width + 2 * squares + latent_dim, outputs, key=keys[3])
        self.output = jax.tree.map(jnp.zeros_like, output)
        self.width = width

    def features(self, x: Datum, posterior_features: Features) -> Float[Array, " c"]:
        seen = posterior_features if self.encoder is None else self.encoder(x)
        return self.datum(seen)

    def outputs(self, features: Float[Array, " c"], white: Latent) -> Float[Array, "..."]:
        """All outputs at one whitened latent vector."""
        squares = affine(self.projection, white) ** 2
        forms = jnp.concatenate([features[self.width :] * squares, squares])
        hidden = features[: self.width] + affine(self.latent, white)
        if self.quadratic is not None:
            hidden = hidden + affine(self.quadratic, forms)
        for block in self.blocks:
            hidden = hidden + affine(block, jax.nn.silu(hidden))
        return self.output(jnp.concatenate([jax.nn.silu(hidden), forms, white]))


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
        quadratic: Whether the blocks see (pⱼ·z)² and cⱼ(x) (pⱼ·z)², too. Over a contrast with q's
            own moments no linear or quadratic function of z tells draws of q from draws of r, and
            from z alone blocks are slow to find the next order: of a ring in 8 dimensions, 1.4
            nats from its moments, 1,000 steps leave an error of 1.2 without, 0.2 with the forms.
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
        quadratic: bool = False,
        key: Key,
    ):
        super().__init__(
            feature_size,
            latent_dim,
            outputs="scalar",
            encoder=encoder,
            width=width,
            depth=depth,
            quadratic=quadratic,
            key=key,
        )

    def evaluate(self, features: Float[Array, " c"], white: Latent) -> Scalar:
        return self.outputs(features, white)
