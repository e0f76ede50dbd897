"""What it takes to be a contrast."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import numpyro.distributions as dist

from avb._types import Features, Key
from avb.densities import AbstractDensity
from avb.posteriors import AbstractPosterior


class AbstractContrast(eqx.Module):
    """r(z|x): for each datum a density to sample and to evaluate.

    The ELBO through a contrast (Mescheder, Nowozin & Geiger 2017, eq. 3.8) is

        E_q[log p(x|z) + log p(z) − log r(z|x) − T*(x, z)],   T* = log q(z|x) − log r(z|x),

    so the closer r is to q, the less the critic T has to learn.

    Attributes:
        is_learned: Whether r has parameters of its own, fitted by maximum likelihood to
            draws of q.
        density_axes: Which leaves of the density belong to one datum (0) and which are
            shared by all (``None``), as the axes of a ``vmap``.
    """

    is_learned: ClassVar[bool]
    density_axes: ClassVar[Any] = 0

    @abc.abstractmethod
    def condition(
        self, posterior: AbstractPosterior, prior: dist.Distribution, features: Features, key: Key
    ) -> AbstractDensity:
        """r(·|x) from the posterior, the prior and the features of one datum."""
