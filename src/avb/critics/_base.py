"""What it takes to be a critic."""

import abc

import equinox as eqx
import jax
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

    def pairs(
        self,
        features: Float[Array, " c"],
        white_posterior: Latent,
        white_contrast: Float[Array, "m d"],
    ) -> tuple[Float[Array, " b"], Float[Array, "b m"]]:
        """What the objective compares: values at draws of two densities, for each of b ratios.

        T itself is one ratio, of q over r. A critic that is a sum of several, each of densities
        nearer to each other, learns every one of them by the same objective.

        Args:
            features: As :meth:`features` gave them.
            white_posterior: One draw of q(z|x), whitened.
            white_contrast: Draws of r(z|x), whitened.

        Returns:
            For each ratio its value at one draw of the density above, and at ``m`` draws of
            the one below.
        """
        on_contrast = jax.vmap(self.evaluate, in_axes=(None, 0))(features, white_contrast)
        return self.evaluate(features, white_posterior)[None], on_contrast[None]
