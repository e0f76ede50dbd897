"""A normalizing flow as the prior of a model."""

import jax
import numpyro.distributions as dist
from flowjax.distributions import AbstractDistribution
from numpyro.distributions import constraints

from avb._errors import ConfigError
from avb._types import Key
from avb.nets._flow import coupling


class FlowPrior(dist.Distribution):
    """p(z) by a normalizing flow, with event shape ``(d,)``.

    Args:
        flow: A FlowJAX distribution over z of shape ``(d,)``, without a condition.
    """

    arg_constraints = {}  # noqa: RUF012  (NumPyro's interface)
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("flow",)

    def __init__(self, flow: AbstractDistribution):
        self.flow = flow
        super().__init__(event_shape=flow.shape)

    @classmethod
    def coupling(
        cls, latent_dim: int, *, layers: int = 8, width: int = 128, key: Key
    ) -> "FlowPrior":
        """A coupling flow from N(0, I), as quick to sample as to evaluate.

        Args:
            latent_dim: Number of latent dimensions d, at least 2.
            layers: Number of coupling layers.
            width: Hidden units of each layer's conditioner.
            key: PRNG key.

        Raises:
            ConfigError: Fewer than two latent dimensions.

        References:
            Dinh et al. (2017), https://arxiv.org/abs/1605.08803.
        """
        if latent_dim < 2:
            raise ConfigError(
                f"a coupling flow as prior: expected at least 2 latent dimensions, got {latent_dim}"
            )
        return cls(coupling(latent_dim, layers=layers, width=width, key=key))

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws of shape ``(*sample_shape, d)``."""
        return self.flow.sample(key, sample_shape)

    def log_prob(self, value: jax.Array, intermediates: object = None) -> jax.Array:
        """Log p(z) of vectors along the last axis, in nats."""
        return self.flow.log_prob(value)
