"""Which latent dimensions a posterior uses."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._errors import DataError
from avb._types import Datum, Key
from avb.evaluation._batched import Progress, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._encode import check_encodable
from avb.posteriors import AbstractPosterior

THRESHOLD = 0.01
DRAWS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class ActiveUnits:
    """How far the posterior mean of each latent dimension varies over the data.

    Attributes:
        variances: Var_x(E_q[z_j|x]), shape ``(d,)``, in squared units of z. Unbiased, so that
            one which is zero may come out a little below.
        errors: Their Monte Carlo standard errors, shape ``(d,)``; the data are taken as given.
    """

    variances: np.ndarray
    errors: np.ndarray

    @property
    def count(self) -> int:
        """Dimensions whose variance exceeds 0.01."""
        return int(np.sum(self.variances > THRESHOLD))

    def as_dict(self) -> dict[str, Any]:
        """The summary, ready for JSON."""
        return {
            "active_units": self.count,
            "variances": self.variances.tolist(),
            "errors": self.errors.tolist(),
            "threshold": THRESHOLD,
        }


@eqx.filter_jit
def _means(parts, x, keys):
    posterior, draws = parts

    def datum(x: Datum, key: Key):
        features = posterior.encoder(x)
        keys = jax.random.split(key, draws)
        z = jax.lax.map(lambda key: posterior.draw(features, key), keys, batch_size=DRAWS_AT_ONCE)
        return jax.vmap(mean_and_error, in_axes=1)(z)

    return jax.vmap(datum)(jnp.asarray(x), keys)


def active_units(
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 256,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> ActiveUnits:
    """Var_x(E_q[z_j|x]) of each latent dimension, and how many exceed 0.01.

    The Monte Carlo error of the means adds to their variance over the data and would make a
    collapsed dimension look active when draws are few; what it adds is known and taken off.

    Args:
        posterior: q(z|x), only sampled.
        data: Shape ``(n, *data_shape)``, at least 2 data.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The variances with their errors, and the count.

    Raises:
        ConfigError: Fewer than 2 draws.
        DataError: Fewer than 2 data, of a shape the encoder does not take, or not finite.

    References:
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, section 5.1.
    """
    check_draws(draws)
    data = check_encodable(posterior, data)
    if len(data) < 2:
        raise DataError("active units: expected at least 2 data, got 1")
    means, errors = over_batches(
        lambda x, keys: _means((posterior, draws), x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    return _variances(means.astype(np.float64), np.square(errors, dtype=np.float64))


def _variances(means: np.ndarray, noise: np.ndarray) -> ActiveUnits:
    """The variances over data, from means of shape ``(n, d)`` and the variance of each."""
    count = len(means)
    spread = np.var(means, axis=0, ddof=1) - np.mean(noise, axis=0)
    centred = means - np.mean(means, axis=0)
    # The variance of Σ (m_i − m̄)²/(n − 1) for Gaussian means around fixed, unknown ones, whose
    # own squares are smaller than the seen ones by the noise.
    squares = np.maximum(np.sum(noise * (centred**2 - noise), axis=0), 0.0)
    variance = (4.0 * squares + 2.0 * np.sum(noise**2, axis=0)) / (count - 1) ** 2
    return ActiveUnits(spread, np.sqrt(variance))
