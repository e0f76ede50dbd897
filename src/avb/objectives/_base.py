"""What it takes to be a critic objective."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._types import Scalar


class AbstractObjective(eqx.Module):
    """A loss of the critic's values on posterior draws and on contrast draws."""

    @abc.abstractmethod
    def loss(self, on_posterior: Float[Array, " n"], on_contrast: Float[Array, "n m"]) -> Scalar:
        """The loss whose minimiser is T* = log q − log r, up to :meth:`offset`.

        Args:
            on_posterior: T at one draw of q(z|x) a datum, shape ``(n,)``.
            on_contrast: T at ``m`` draws of r(z|x) a datum, shape ``(n, m)``.
        """

    def offset(self, on_contrast: Float[Array, "n m"]) -> Scalar:
        """What to subtract from T to get log q − log r; zero for most objectives."""
        return jnp.zeros((), on_contrast.dtype)
