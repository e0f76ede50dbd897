"""The prior as contrast: plain AVB."""

from typing import ClassVar

import numpyro.distributions as dist

from avb._types import Features, Key
from avb.contrasts._base import AbstractContrast
from avb.densities import PriorDensity
from avb.posteriors import AbstractPosterior


class PriorContrast(AbstractContrast):
    """r(z|x) = p(z).

    KL(q‖p) is often tens of nats; a critic that must learn it saturates. Kept as the
    baseline it is: prefer :class:`GaussianContrast`.

    References:
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, section 3.1.
    """

    is_learned: ClassVar[bool] = False

    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> PriorDensity:
        return PriorDensity(prior)
