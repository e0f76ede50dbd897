"""The ELBO of a posterior with a density."""

import equinox as eqx
import jax
import numpy as np

from avb._errors import ConfigError
from avb._types import Datum, Key
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import Estimate
from avb.models import LatentVariableModel
from avb.posteriors import AbstractTractablePosterior


@eqx.filter_jit
def _exact(parts, x, keys):
    model, posterior, draws = parts

    def datum(x: Datum, key: Key):
        features = posterior.encoder(x)
        density = posterior.density(features)
        z = jax.vmap(density.sample)(jax.random.split(key, draws))
        log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
        return mean_and_error(log_joint - jax.vmap(density.log_prob)(z))

    return jax.vmap(datum)(x, keys)


def elbo(
    model: LatentVariableModel,
    posterior: AbstractTractablePosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 32,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Estimate:
    """E_q[log p(x, z) − log q(z|x)] by Monte Carlo, for a posterior with a density.

    Args:
        model: p(x, z).
        posterior: q(z|x) with a density.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        One value a datum, in nats.

    Raises:
        ConfigError: The posterior has no density; the message says what to use.
        DataError: Data of another shape, or not finite.
    """
    if not isinstance(posterior, AbstractTractablePosterior):
        raise ConfigError(
            f"{type(posterior).__name__} has no density, so its ELBO has no exact value: use "
            "elbo_bracket for a semi-implicit posterior, fresh_critic_elbo or smoothed_bracket for "
            "an implicit one"
        )
    check_draws(draws)
    data = check_data(data, model.data_shape)
    parts = (model, posterior, draws)
    values, errors = over_batches(
        lambda x, keys: _exact(parts, x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    return Estimate("ELBO", "exact", "Monte Carlo", values, errors, f"{draws} draws a datum")
