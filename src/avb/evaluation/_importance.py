"""Importance-weighted lower bound of log p(x), with a tractable proposal for any posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._errors import ConfigError
from avb._types import Datum, Features, Key
from avb.densities import FullGaussian
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._estimate import Estimate
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior

# The posterior that training finds is narrower than the true one; a proposal must not be.
WIDEN = 1.2
FITTING_DRAWS = 256
SAMPLES_AT_ONCE = 50


def gaussian_proposal(posterior: AbstractPosterior, features: Features, key: Key) -> FullGaussian:
    """A full-covariance Gaussian with the moments of posterior draws, widened."""
    keys = jax.random.split(key, FITTING_DRAWS)
    draws = jax.vmap(posterior.draw, in_axes=(None, 0))(features, keys)
    loc = jnp.mean(draws, axis=0)
    centred = draws - loc[None, :]
    covariance = centred.T @ centred / (FITTING_DRAWS - 1)
    jitter = jnp.diag(1e-4 * jnp.diagonal(covariance) + 1e-10)
    return FullGaussian(loc, WIDEN * jnp.linalg.cholesky(covariance + jitter))


@eqx.filter_jit
def _importance(parts, x, keys):
    model, posterior, samples = parts
    at_once = min(SAMPLES_AT_ONCE, samples)
    chunks = -(-samples // at_once)

    def datum(x: Datum, key: Key):
        key_fit, key_samples = jax.random.split(key)
        proposal = gaussian_proposal(posterior, posterior.encoder(x), key_fit)

        def log_weight(key: Key):
            z = proposal.sample(key)
            return model.log_joint(x, z) - proposal.log_prob(z)

        def add(totals, chunk_keys_and_count):
            chunk_keys, count = chunk_keys_and_count
            kept = jnp.where(jnp.arange(at_once) < count, 0.0, -jnp.inf)
            log_weights = jax.vmap(log_weight)(chunk_keys) + kept
            first = jnp.logaddexp(totals[0], jax.nn.logsumexp(log_weights))
            second = jnp.logaddexp(totals[1], jax.nn.logsumexp(2.0 * log_weights))
            return (first, second), None

        counts = np.minimum(at_once, samples - at_once * np.arange(chunks))
        chunked = jax.random.split(key_samples, (chunks, at_once))
        start = (jnp.full((), -jnp.inf), jnp.full((), -jnp.inf))
        (first, second), _ = jax.lax.scan(add, start, (chunked, jnp.asarray(counts, jnp.int32)))
        effective = jnp.exp(2.0 * first - second)
        # Delta method: the relative variance of the mean weight.
        error = jnp.sqrt(jnp.maximum(1.0 / effective - 1.0 / samples, 0.0))
        return first - jnp.log(float(samples)), error, effective

    return jax.vmap(datum)(x, keys)


def importance_bound(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    samples: int = 1000,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> tuple[Estimate, np.ndarray]:
    """E[log 1/S Σ_s p(x, z_s) / r(z_s)] ≤ log p(x), with z_s from a Gaussian proposal r.

    The proposal has the moments of posterior draws, full covariance and widened scale,
    so the posterior itself need not have a density.

    Args:
        model: p(x, z).
        posterior: q(z|x), only sampled.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        samples: S; the bound tightens as it grows, memory stays the same.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower bound, and the effective sample size of each datum, shape ``(n,)``.

    Raises:
        ConfigError: Fewer than 2 samples.
        DataError: Data of another shape, or not finite.

    References:
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, theorem 1.
    """
    if samples < 2:
        raise ConfigError(f"importance samples: expected at least 2, got {samples}")
    data = check_data(data, model.data_shape)
    parts = (model, posterior, samples)
    values, errors, effective = over_batches(
        lambda x, keys: _importance(parts, x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    detail = (
        f"{samples} importance samples, Gaussian proposal, "
        f"median effective size {np.median(effective):.0f}"
    )
    return Estimate(
        "log p(x)", "lower bound", "importance weighting", values, errors, detail
    ), effective
