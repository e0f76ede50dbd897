"""A latent-variable model: prior, decoder and likelihood."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from avb._check import expect_equal
from avb._types import Datum, Key, Latent, Scalar, Shape
from avb.models._likelihood import AbstractLikelihood
from avb.nets._rows import over_rows


def standard_normal(latent_dim: int) -> dist.Distribution:
    """The usual prior, N(0, I), with event shape ``(latent_dim,)``."""
    # Numbers, not arrays: NumPyro orders a distribution's arrays differently in every process.
    return dist.Normal(0.0, 1.0).expand((latent_dim,)).to_event(1)


class LatentVariableModel(eqx.Module):
    """p(x, z) = p(z) p(x|z) for one datum x and one latent vector z.

    Args:
        prior: A NumPyro distribution with event shape ``(d,)``. It is held fixed.
        decoder: Any Equinox module or function from ``(d,)`` to the likelihood's
            unbounded parameters, of shape ``(likelihood.num_parameters, *data_shape)``.
        likelihood: How the parameters become a distribution of the datum.
        data_shape: Shape of one datum.

    Raises:
        ConfigError: The decoder's output does not fit the likelihood and the data.
    """

    prior: dist.Distribution
    decoder: Callable
    likelihood: AbstractLikelihood
    data_shape: Shape = eqx.field(static=True)

    def __check_init__(self):
        expect_equal("number of axes of the prior's event", 1, len(self.prior.event_shape))
        z = jax.ShapeDtypeStruct((self.latent_dim,), jnp.float32)
        got = eqx.filter_eval_shape(self.decoder, z).shape
        expected = (self.likelihood.num_parameters, *self.data_shape)
        expect_equal("shape of the decoder's output", expected, got)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions d."""
        return self.prior.event_shape[0]

    @property
    def fixed_prior(self) -> dist.Distribution:
        """The prior, as a constant for every gradient."""
        arrays, others = eqx.partition(self.prior, eqx.is_array)
        return eqx.combine(jax.lax.stop_gradient(arrays), others)

    def log_prior(self, z: Latent) -> Scalar:
        """Log p(z), in nats."""
        return jnp.asarray(self.fixed_prior.log_prob(z))

    def log_likelihood(self, x: Datum, z: Latent) -> Scalar:
        """Log p(x|z), summed over the datum's elements, in nats."""
        return self.likelihood.log_prob(self.decoder(z), x)

    def log_likelihoods(
        self, x: Float[Array, "n ..."], z: Float[Array, "n d"]
    ) -> Float[Array, " n"]:
        """Log p(x|z) of n data, each with its own latent vector, in nats."""
        return jax.vmap(self.likelihood.log_prob)(over_rows(self.decoder)(z), x)

    def log_joint(self, x: Datum, z: Latent) -> Scalar:
        """Log p(x, z), in nats."""
        return self.log_prior(z) + self.log_likelihood(x, z)

    def mean(self, z: Latent) -> Datum:
        """E[x|z], of shape ``data_shape``."""
        return self.likelihood.mean(self.decoder(z))

    def sample(self, key: Key) -> tuple[Latent, Datum]:
        """Draw one ``(z, x)`` from the model."""
        key_z, key_x = jax.random.split(key)
        z = jnp.asarray(self.fixed_prior.sample(key_z))
        return z, jnp.asarray(self.likelihood.distribution(self.decoder(z)).sample(key_x))
