"""Importance-weighted lower bound of log p(x), with a tractable proposal for any posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._errors import ConfigError
from avb._types import Datum, Key
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._estimate import Estimate
from avb.evaluation._proposals import ProposalName, fit_proposal
from avb.evaluation._weights import FEWEST_FOR_PARETO, log_mean_weights, pareto_k
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior

SAMPLES_AT_ONCE = 50


@eqx.filter_jit
def _log_weights(parts, x, keys):
    model, posterior, proposal, samples = parts
    at_once = min(SAMPLES_AT_ONCE, samples)
    chunks = -(-samples // at_once)

    def datum(x: Datum, key: Key):
        key_fit, key_samples = jax.random.split(key)
        density = proposal.condition(posterior, posterior.encoder(x), key_fit)

        def chunk(_, keys):
            z = jax.vmap(density.sample)(keys)
            log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
            log_weights = log_joint - jax.vmap(density.log_prob)(z)
            # Where p(x, z) overflows to no number at all, it is as good as zero.
            return None, jnp.nan_to_num(log_weights, nan=-jnp.inf, posinf=jnp.inf, neginf=-jnp.inf)

        chunked = jax.random.split(key_samples, (chunks, at_once))
        return jax.lax.scan(chunk, None, chunked)[1].reshape(-1)[:samples]

    return jax.vmap(datum)(x, keys)


def importance_bound(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    samples: int = 1000,
    proposal: ProposalName = "gaussian",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Estimate:
    """E[log 1/S Σ_s p(x, z_s) / r(z_s)] ≤ log p(x), with z_s from a tractable proposal r.

    The proposal is fitted to posterior draws of its own, so the posterior itself need not
    have a density, and the bound holds however badly the fit turns out.

    Args:
        model: p(x, z).
        posterior: q(z|x), only sampled.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        samples: S; the bound tightens as it grows.
        proposal: ``"gaussian"``, the moments of posterior draws with widened scale;
            ``"mixture"``, for posteriors of several modes; ``"flow"``, a conditional flow
            trained on draws for all the data, for d of at least 2.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower bound, with the effective sample size of each datum and, from 25 samples,
        Pareto k̂ of its weights.

    Raises:
        ConfigError: Fewer than 2 samples, an unknown proposal, or a flow for d = 1.
        DataError: Data of another shape, or not finite.

    References:
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, theorem 1.
    """
    if samples < 2:
        raise ConfigError(f"importance samples: expected at least 2, got {samples}")
    data = check_data(data, model.data_shape)
    key_fit, key = jax.random.split(key)
    fitted = fit_proposal(proposal, posterior, data, key=key_fit)
    parts = (model, posterior, fitted, samples)

    def summary(x: np.ndarray, keys: Key) -> tuple:
        log_weights = np.asarray(_log_weights(parts, x, keys))
        k = pareto_k(log_weights) if samples >= FEWEST_FOR_PARETO else None
        return log_mean_weights(log_weights), k

    (values, errors, effective), k = over_batches(
        summary, data, key=key, batch_size=batch_size, progress=progress
    )
    detail = f"{samples} importance samples, {fitted.title} proposal"
    return Estimate(
        "log p(x)", "lower bound", "importance weighting", values, errors, detail, effective, k
    )
