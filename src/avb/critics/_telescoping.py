"""A critic that goes from the contrast to the posterior in several small ratios."""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.critics._residual import AbstractResidualCritic


class TelescopingCritic(AbstractResidualCritic):
    """T(x, z) = Σ_k T_k(x, z), T_k = log p_k − log p_{k−1}, from p_0 = r to p_K = q.

    Between them lie the densities p_k of the waymarks √(1 − a_k²) w_r + a_k w_q, with w_r and
    w_q whitened draws of r and q. Neighbours overlap where q and r hardly do: there one
    ratio can be told by any critic that tells their draws apart, and its size is not learnt.
    Each T_k is an output of the same residual network, trained by the method's objective on
    draws of its own two densities. A step costs the critic about K times as much.

    Args:
        feature_size: Length of the feature vector, of the posterior or of ``encoder``.
        latent_dim: Number of latent dimensions d.
        waymarks: a_1 … a_{K−1}, rising, between 0 and 1. The default suits a posterior that is
            narrower than the contrast in every direction; one far from it wants even steps.
        encoder: The critic's own features of one datum; ``None`` reads the posterior's.
        width: Hidden units.
        depth: Number of residual blocks.
        key: PRNG key.

    Raises:
        ConfigError: Waymarks out of range or out of order.

    References:
        Rhodes, Xu & Gutmann (2020), https://arxiv.org/abs/2006.12204, section 3.
    """

    waymarks: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        feature_size: int,
        latent_dim: int,
        *,
        waymarks: tuple[float, ...] = (0.5, 0.8, 0.95),
        encoder: Callable | None = None,
        width: int = 128,
        depth: int = 2,
        key: Key,
    ):
        levels = (0.0, *waymarks, 1.0)
        if not all(low < high for low, high in itertools.pairwise(levels)):
            raise ConfigError(
                f"waymarks of the telescoping critic: expected rising numbers between 0 and 1, "
                f"got {waymarks}"
            )
        super().__init__(
            feature_size,
            latent_dim,
            outputs=len(waymarks) + 1,
            encoder=encoder,
            width=width,
            depth=depth,
            key=key,
        )
        self.waymarks = tuple(waymarks)

    def evaluate(self, features: Float[Array, " c"], white: Latent) -> Scalar:
        return jnp.sum(self.outputs(features, white))

    def pairs(
        self,
        features: Float[Array, " c"],
        white_posterior: Latent,
        white_contrast: Float[Array, "m d"],
    ) -> tuple[Float[Array, " b"], Float[Array, "b m"]]:
        level = jnp.asarray((0.0, *self.waymarks))[:, None, None]
        mixed = (
            jnp.sqrt(1.0 - level**2) * white_contrast[None] + level * white_posterior[None, None]
        )
        at = jax.vmap(self.outputs, in_axes=(None, 0))
        below = jax.vmap(at, in_axes=(None, 0))(features, mixed)
        top = self.outputs(features, white_posterior)
        above = jnp.concatenate([below[1:, 0], top[None]])
        # Of level k and output k: the ratio over which level k is the lower density.
        return jnp.diagonal(above), jnp.diagonal(below, axis1=0, axis2=2).T
