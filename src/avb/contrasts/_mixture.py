"""A contrast with several modes, fitted by maximum likelihood to draws of q."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from avb._errors import ConfigError
from avb._types import Features, Key
from avb.contrasts._base import AbstractContrast
from avb.densities._full_mixture import FullMixture
from avb.nets._mlp import with_zero_output
from avb.posteriors import AbstractPosterior
from avb.posteriors._mixture import mixture_from, mixture_size

# Of the components' locations at the start, in scales of the posterior's frame.
SPREAD = 0.5


class MixtureContrast(AbstractContrast):
    """r_α(z|x): a mixture of Gaussians, a learned function of the posterior's features.

    Weights, locations and full covariances are relative to the posterior's own frame, as those
    of :class:`GaussianContrast` are. The components start with equal weights, apart from each
    other: alike, they would all learn the same. Whitened coordinates are those of the mixture's
    own mean and covariance.

    Args:
        feature_size: Length of the posterior's feature vector.
        latent_dim: Number of latent dimensions d.
        components: Number of Gaussians.
        width: Hidden units of the head.
        key: PRNG key; it places the components, too.

    Raises:
        ConfigError: No components.

    References:
        Bishop (1994), Mixture density networks, Aston University NCRG/94/004.
    """

    head: eqx.nn.MLP
    latent_dim: int = eqx.field(static=True)
    components: int = eqx.field(static=True)
    is_learned: ClassVar[bool] = True

    def __init__(
        self,
        feature_size: int,
        latent_dim: int,
        *,
        components: int = 4,
        width: int = 128,
        key: Key,
    ):
        if components < 1:
            raise ConfigError(
                f"components of the mixture contrast: expected at least 1, got {components}"
            )
        key_head, key_loc = jax.random.split(key)
        size = mixture_size(components, latent_dim)
        head = eqx.nn.MLP(feature_size, size, width, 1, activation=jax.nn.silu, key=key_head)
        apart = jax.random.normal(key_loc, (components, latent_dim))
        apart = SPREAD * (apart - jnp.mean(apart, axis=0, keepdims=True))
        bias = jnp.zeros((components, size // components))
        bias = bias.at[:, 1 : 1 + latent_dim].set(apart)
        # So much narrower that the mixture starts with about the frame's own variance.
        bias = bias.at[:, 1 + latent_dim : 1 + 2 * latent_dim].set(0.5 * jnp.log1p(-(SPREAD**2)))
        self.head = eqx.tree_at(
            lambda net: net.layers[-1].bias, with_zero_output(head), bias.reshape(-1)
        )
        self.latent_dim = latent_dim
        self.components = components

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> FullMixture:
        frame = posterior.frame(features)
        scale = jnp.exp(frame.log_scale)
        inner = mixture_from(self.head(features), self.components, self.latent_dim)
        return FullMixture(
            inner.logits,
            frame.loc[None, :] + scale[None, :] * inner.loc,
            inner.whitening / scale[None, None, :],
        )
