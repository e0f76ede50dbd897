"""What it takes to be a critic."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from avb._types import Datum, Features, Latent, Scalar


class AbstractCritic(eqx.Module):
    """T(x, z): what a critic sees of the datum, then a number for a whitened latent vector.

    The part that depends on the datum alone is separate, so that one evaluation of it
    serves posterior draws, contrast draws and the posterior's gradient.
    """

    @abc.abstractmethod
    def features(self, x: Datum, posterior_features: Features) -> Float[Array, " c"]:
        """What the critic keeps of one datum; ``posterior_features`` are constants here."""

    @abc.abstractmethod
    def evaluate(self, features: Float[Array, " c"], white: Latent) -> Scalar:
        """T at a latent vector in the contrast's whitened coordinates, in nats."""
