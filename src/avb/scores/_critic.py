"""A network that gives the score of q(z|x)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Features, Key, Latent
from avb.densities import FullGaussian


class ScoreCritic(eqx.Module):
    """S(x, z) ≈ ∇_z log q(z|x): the score of a Gaussian, which a network corrects.

    The network sees z in the Gaussian's whitened coordinates and gives the correction of the
    score there. Its output layer starts at zero: at first S is the Gaussian's own score.
    Unlike that of a critic T, the field S need not be a gradient, and it has no value: nothing
    can be said about log q itself.

    Args:
        feature_size: Length of the feature vector.
        latent_dim: Number of latent dimensions d.
        width: Hidden units.
        depth: Number of residual blocks.
        key: PRNG key.
    """

    datum: eqx.nn.Linear
    latent: eqx.nn.Linear
    blocks: list[eqx.nn.Linear]
    output: eqx.nn.Linear

    def __init__(
        self, feature_size: int, latent_dim: int, *, width: int = 128, depth: int = 2, key: Key
    ):
        key_datum, key_latent, key_output, *keys = jax.random.split(key, 3 + depth)
        self.datum = eqx.nn.Linear(feature_size, width, key=key_datum)
        self.latent = eqx.nn.Linear(latent_dim, width, use_bias=False, key=key_latent)
        self.blocks = [eqx.nn.Linear(width, width, key=k) for k in keys]
        output = eqx.nn.Linear(width + latent_dim, latent_dim, key=key_output)
        self.output = jax.tree.map(jnp.zeros_like, output)

    def white_score(self, features: Features, white: Latent) -> Latent:
        """The score with respect to whitened coordinates, at one latent vector in them."""
        hidden = self.datum(features) + self.latent(white)
        for block in self.blocks:
            hidden = hidden + block(jax.nn.silu(hidden))
        return self.output(jnp.concatenate([jax.nn.silu(hidden), white])) - white

    def score(self, features: Features, gaussian: FullGaussian, z: Latent) -> Latent:
        """S at one latent vector.

        Args:
            features: Features of the datum.
            gaussian: The Gaussian in whose coordinates the critic was trained.
            z: Shape ``(d,)``.
        """
        white = self.white_score(features, gaussian.whiten(z))
        return from_white(gaussian.scale_tril, white)


def from_white(scale_tril: Float[Array, "d d"], score: Float[Array, " d"]) -> Latent:
    """The score in z from that in L⁻¹(z − m)."""
    return jax.scipy.linalg.solve_triangular(scale_tril, score, lower=True, trans=1)
