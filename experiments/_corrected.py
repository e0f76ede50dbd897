"""The posterior's moments at few points of its noise, and a learned correction of them."""

from typing import ClassVar

import equinox as eqx
import jax
import numpyro.distributions as dist

from avb._types import Features, Key
from avb.contrasts import AbstractContrast, AnchoredMomentContrast
from avb.densities import FullGaussian
from avb.nets._mlp import with_zero_output
from avb.posteriors import AbstractPosterior
from avb.posteriors._gaussian import full_from, full_size


class CorrectedMomentContrast(AbstractContrast):
    """r_α(z|x): the Gaussian of few anchors, moved and sheared by a learned function of x.

    With L Lᵀ the covariance and m the mean of :class:`AnchoredMomentContrast`, r is
    N(m + L δ, L C Cᵀ Lᵀ), whose δ and C a head makes of the features, fitted by maximum likelihood
    to draws of q. It starts at δ = 0 and C = I. The anchors follow every change of the posterior
    at once; the head takes away what their number leaves wrong, a smooth function of x.

    Args:
        noise_size: Noise variables of the posterior's map.
        feature_size: Length of the posterior's feature vector.
        latent_dim: Number of latent dimensions d.
        num_anchors: Points of noise, as :class:`AnchoredMomentContrast` takes them.
        width: Hidden units of the head.
        key: PRNG key.
    """

    anchored: AnchoredMomentContrast
    head: eqx.nn.MLP
    latent_dim: int = eqx.field(static=True)
    is_learned: ClassVar[bool] = True

    def __init__(
        self,
        noise_size: int,
        feature_size: int,
        latent_dim: int,
        *,
        num_anchors: int | None = None,
        width: int = 128,
        key: Key,
    ):
        self.anchored = AnchoredMomentContrast(noise_size, num_anchors=num_anchors)
        size = full_size(latent_dim)
        head = eqx.nn.MLP(feature_size, size, width, 1, activation=jax.nn.silu, key=key)
        self.head = with_zero_output(head)
        self.latent_dim = latent_dim

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> FullGaussian:
        outer = self.anchored.condition(posterior, prior, features, key)
        inner = full_from(self.head(features), self.latent_dim)
        return FullGaussian(
            outer.loc + outer.scale_tril @ inner.loc, outer.scale_tril @ inner.scale_tril
        )
