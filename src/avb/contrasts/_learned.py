"""Contrasts with parameters of their own, fitted by maximum likelihood to draws of q."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from avb._errors import ConfigError
from avb._types import Features, Key
from avb.contrasts._base import AbstractContrast
from avb.densities import DiagonalGaussian, FlowDensity, FullGaussian
from avb.nets._flow import FlowHead
from avb.nets._mlp import with_zero_output
from avb.posteriors import AbstractPosterior
from avb.posteriors._gaussian import diagonal_from, full_from, full_size


class GaussianContrast(AbstractContrast):
    """r_α(z|x): a Gaussian whose parameters are a learned function of the posterior's features.

    Where Monte Carlo moments are noisy, the head is stable: it averages over all steps
    and all data. It is relative to the posterior's own frame, and starts at that frame.

    Args:
        feature_size: Length of the posterior's feature vector.
        latent_dim: Number of latent dimensions d.
        covariance: ``"diagonal"`` or ``"full"``.
        width: Hidden units of the head.
        key: PRNG key.

    Raises:
        ConfigError: An unknown covariance.
    """

    head: eqx.nn.MLP
    latent_dim: int = eqx.field(static=True)
    covariance: Literal["diagonal", "full"] = eqx.field(static=True)
    is_learned: ClassVar[bool] = True

    def __init__(
        self,
        feature_size: int,
        latent_dim: int,
        *,
        covariance: Literal["diagonal", "full"] = "full",
        width: int = 128,
        key: Key,
    ):
        if covariance not in ("diagonal", "full"):
            raise ConfigError(
                f"covariance of the learned contrast: expected 'diagonal' or 'full', "
                f"got {covariance!r}"
            )
        size = 2 * latent_dim if covariance == "diagonal" else full_size(latent_dim)
        head = eqx.nn.MLP(feature_size, size, width, 1, activation=jax.nn.silu, key=key)
        self.head = with_zero_output(head)
        self.latent_dim = latent_dim
        self.covariance = covariance

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> DiagonalGaussian | FullGaussian:
        frame = posterior.frame(features)
        scale = jnp.exp(frame.log_scale)
        raw = self.head(features)
        if self.covariance == "diagonal":
            inner = diagonal_from(raw, self.latent_dim)
            return DiagonalGaussian(
                frame.loc + scale * inner.loc, frame.log_scale + inner.log_scale
            )
        inner = full_from(raw, self.latent_dim)
        return FullGaussian(frame.loc + scale * inner.loc, scale[:, None] * inner.scale_tril)


class FlowContrast(AbstractContrast):
    """r_α(z|x): a conditional normalizing flow fitted to draws of q.

    Args:
        feature_size: Length of the posterior's feature vector.
        latent_dim: Number of latent dimensions d, at least 2.
        layers: Number of coupling layers.
        width: Hidden units of each layer's conditioner.
        key: PRNG key.
    """

    head: FlowHead
    is_learned: ClassVar[bool] = True
    density_axes: ClassVar[Any] = FlowDensity(base=0, flow=None, condition=0)  # pyright: ignore

    def __init__(
        self, feature_size: int, latent_dim: int, *, layers: int = 4, width: int = 64, key: Key
    ):
        self.head = FlowHead(feature_size, latent_dim, layers=layers, width=width, key=key)

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> FlowDensity:
        return self.head(features, posterior.frame(features))
