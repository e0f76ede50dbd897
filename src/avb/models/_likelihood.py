"""Likelihoods: from a decoder's unbounded outputs to a NumPyro distribution of the datum.

``distribution`` gives independent elements of shape ``data_shape``. Scales and rates are
bounded, so that no decoder output makes a log-likelihood or its gradient infinite.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from avb._check import expect_equal, expect_positive
from avb._errors import ConfigError
from avb._types import Datum, Scalar, Shape
from avb.densities._scale import bounded_scale

Parameters = Float[Array, "p ..."]

MAX_LOG_RATE = 12.0


class AbstractLikelihood(eqx.Module):
    """p(x|parameters) with independent elements.

    Subclasses state how many unbounded parameters an element needs and turn them,
    of shape ``(num_parameters, *data_shape)``, into a distribution.
    """

    num_parameters: eqx.AbstractVar[int]

    @abc.abstractmethod
    def distribution(self, parameters: Parameters) -> dist.Distribution:
        """The distribution of one datum, batch shape ``data_shape``."""

    def log_prob(self, parameters: Parameters, x: Datum) -> Scalar:
        """Log p(x|parameters), summed over the elements, in nats; x is float32."""
        return jnp.sum(self.distribution(parameters).log_prob(x))

    def mean(self, parameters: Parameters) -> Datum:
        """E[x], of shape ``data_shape``."""
        return self.distribution(parameters).mean


class Bernoulli(AbstractLikelihood):
    """Elements in {0, 1}; the parameter is the logit."""

    num_parameters: int = eqx.field(static=True, default=1)

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return dist.BernoulliLogits(parameters[0])


class FixedNormal(AbstractLikelihood):
    """Real elements with a known standard deviation.

    Args:
        scale: The standard deviation, positive, in units of the data.
    """

    scale: float = eqx.field(static=True)
    num_parameters: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        expect_positive("scale of the normal likelihood", self.scale)

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return dist.Normal(parameters[0], self.scale)


class PixelNormal(AbstractLikelihood):
    """Real elements, each with its own learned standard deviation, the same for every datum.

    Args:
        data_shape: Shape of one datum.
    """

    raw_scale: Float[Array, "..."]
    num_parameters: int = eqx.field(static=True)

    def __init__(self, data_shape: Shape):
        self.raw_scale = jnp.zeros(data_shape)
        self.num_parameters = 1

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        expect_equal("data shape of the likelihood", self.raw_scale.shape, parameters.shape[1:])
        return dist.Normal(parameters[0], bounded_scale(self.raw_scale))


class DecodedNormal(AbstractLikelihood):
    """Real elements whose mean and bounded standard deviation both come from the decoder."""

    num_parameters: int = eqx.field(static=True, default=2)

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return dist.Normal(parameters[0], bounded_scale(parameters[1]))


class Categorical(AbstractLikelihood):
    """Elements in {0, …, num_classes − 1}; the parameters are the logits.

    Its ``mean`` is that of the class index, as for an ordered scale (grey levels).

    Args:
        num_classes: At least 2.
    """

    num_parameters: int = eqx.field(static=True)

    def __init__(self, num_classes: int):
        if num_classes < 2:
            raise ConfigError(f"number of classes: expected at least 2, got {num_classes}")
        self.num_parameters = num_classes

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return dist.CategoricalLogits(jnp.moveaxis(parameters, 0, -1))

    def log_prob(self, parameters: Parameters, x: Datum) -> Scalar:
        return jnp.sum(self.distribution(parameters).log_prob(x.astype(jnp.int32)))

    def mean(self, parameters: Parameters) -> Datum:
        levels = jnp.arange(self.num_parameters, dtype=parameters.dtype)
        return jnp.tensordot(levels, jax.nn.softmax(parameters, axis=0), axes=1)


class Poisson(AbstractLikelihood):
    """Counts; the parameter is the log rate, bounded from above."""

    num_parameters: int = eqx.field(static=True, default=1)

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return dist.Poisson(_bounded_rate(parameters[0]))


class NegativeBinomial(AbstractLikelihood):
    """Over-dispersed counts; the parameters are the log mean and the log concentration."""

    num_parameters: int = eqx.field(static=True, default=2)

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return dist.NegativeBinomial2(_bounded_rate(parameters[0]), bounded_scale(parameters[1]))


class FamilyLikelihood(AbstractLikelihood):
    """Any NumPyro family with independent elements.

    Args:
        family: A function from unbounded parameters of shape
            ``(num_parameters, *data_shape)`` to a distribution of batch shape ``data_shape``.
        num_parameters: Decoder outputs an element.

    Example:
        >>> import numpyro.distributions as dist
        >>> student = FamilyLikelihood(lambda p: dist.StudentT(4.0, p[0], 0.1), 1)
    """

    family: Callable[[Parameters], dist.Distribution]
    num_parameters: int = eqx.field(static=True)

    def distribution(self, parameters: Parameters) -> dist.Distribution:
        return self.family(parameters)


def _bounded_rate(log_rate: Float[Array, "..."]) -> Float[Array, "..."]:
    clipped = MAX_LOG_RATE - jax.nn.softplus(MAX_LOG_RATE - log_rate)
    return jnp.exp(clipped) + 1e-6
