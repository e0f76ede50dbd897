"""Coupling flows over latent vectors: conditional ones from features, and one for a prior."""

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.distributions import Normal, Transformed
from flowjax.flows import coupling_flow

from avb._errors import ConfigError
from avb._types import Features, Key
from avb.densities import DiagonalGaussian, FlowDensity
from avb.densities._scale import bounded_log_scale

CONDITION_SIZE = 32


def coupling(
    latent_dim: int, *, layers: int, width: int, condition_size: int | None = None, key: Key
) -> Transformed:
    """Coupling layers over N(0, I), as quick to sample as to evaluate.

    Raises:
        ConfigError: Fewer than two latent dimensions.
    """
    if latent_dim < 2:
        raise ConfigError(
            f"a coupling flow needs at least 2 latent dimensions, got {latent_dim}; "
            "use method 'gaussian_vae' or 'sivi' for one"
        )
    return coupling_flow(
        key,
        base_dist=Normal(jnp.zeros(latent_dim)),
        cond_dim=condition_size,
        flow_layers=layers,
        nn_width=width,
        nn_activation=jax.nn.silu,
    )


class FlowHead(eqx.Module):
    """From features of one datum to a :class:`~avb.densities.FlowDensity`.

    Args:
        feature_size: Length of the feature vector.
        latent_dim: Number of latent dimensions d, at least 2.
        layers: Number of coupling layers.
        width: Hidden units of each layer's conditioner.
        key: PRNG key.

    Raises:
        ConfigError: Fewer than two latent dimensions.
    """

    linear: eqx.nn.Linear
    flow: Transformed
    latent_dim: int = eqx.field(static=True)

    def __init__(
        self, feature_size: int, latent_dim: int, *, layers: int = 4, width: int = 64, key: Key
    ):
        key_linear, key_flow = jax.random.split(key)
        size = 2 * latent_dim + CONDITION_SIZE
        self.linear = eqx.nn.Linear(feature_size, size, key=key_linear)
        self.flow = coupling(
            latent_dim, layers=layers, width=width, condition_size=CONDITION_SIZE, key=key_flow
        )
        self.latent_dim = latent_dim

    def __call__(self, features: Features, frame: DiagonalGaussian | None = None) -> FlowDensity:
        """The density for one datum, in the coordinates of a frame where one is given."""
        loc, log_scale, condition = jnp.split(
            self.linear(features), (self.latent_dim, 2 * self.latent_dim)
        )
        log_scale = bounded_log_scale(log_scale)
        if frame is not None:
            loc = frame.loc + jnp.exp(frame.log_scale) * loc
            log_scale = frame.log_scale + log_scale
        base = DiagonalGaussian(loc, log_scale)
        return FlowDensity(base, self.flow, condition)
