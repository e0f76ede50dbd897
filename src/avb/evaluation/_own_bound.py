"""An upper bound of the ELBO from the critic of training."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._method import Method
from avb._types import Datum, Key
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._critic import (
    check_critic,
    check_same_data,
    critic_density,
    critic_offset,
)
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import SIGMAS, Estimate
from avb.evaluation._fresh import CAPPED_SHARE, PILOT_DRAWS, FreshCritics
from avb.evaluation._mixed_contrast import MixedContrast, in_pairs


def _ratios(parts, x: Datum, index, key: Key):
    """T = log q̂ − log m as a function of z, features, the mixed contrast m and the rest's key."""
    method, density, offset = parts
    key_condition, key = jax.random.split(key)
    corner = density.arena.at(index)
    claimed = critic_density(method, x, corner.features, key_condition, offset)
    mixed = MixedContrast.of(claimed, corner)

    def log_ratio(z: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jax.vmap(claimed.log_prob)(z) - mixed.log_prob(z)

    return log_ratio, corner, mixed, key


@eqx.filter_jit
def _pilot(parts, x, index, keys):
    def datum(x: Datum, index, key: Key):
        log_ratio, corner, mixed, key = _ratios(parts, x, index, key)
        key_q, key_m = jax.random.split(key)
        on_q = log_ratio(corner.posterior_draws(key_q, PILOT_DRAWS))
        return on_q, log_ratio(mixed.draws(key_m, 4 * PILOT_DRAWS))

    return jax.vmap(datum)(x, index, keys)


@eqx.filter_jit
def _held_out(parts, x, index, keys):
    *claim, draws, cap, log_normaliser = parts

    def datum(x: Datum, index, key: Key):
        log_ratio, corner, mixed, key = _ratios(claim, x, index, key)
        key_q, key_m = jax.random.split(key)

        def fixed(z: Float[Array, "n d"]) -> Float[Array, " n"]:
            return jnp.minimum(log_ratio(z), cap) - log_normaliser[index]

        z = corner.posterior_draws(key_q, draws)
        log_joint = jax.vmap(claim[0].model.log_joint, in_axes=(None, 0))(x, z)
        excess = in_pairs(jnp.expm1(fixed(mixed.draws(key_m, 4 * draws))))
        return mean_and_error(log_joint - mixed.log_prob(z) - fixed(z)), mean_and_error(excess)

    return jax.vmap(datum)(x, index, keys)


def critic_upper_bound(
    method: Method,
    data: np.ndarray,
    fresh: FreshCritics,
    *,
    key: Key,
    draws: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Estimate:
    """What the critic of training says for certain: an upper bound of the ELBO.

    Fresh critics start from nothing, on the data that are evaluated. In many dimensions, and on
    posteriors far from Gaussian, the critic that played the whole game may know more; then this
    bound is the lower one. For any fixed T and density m,

        ELBO ≤ E_q[log p(x, z) − log m − T] + E_m[exp T] − 1,

    up to Monte Carlo error. m is half the critic's contrast and half the fresh critics', T its
    log r + T less log m, capped where no posterior draw comes and less its log normaliser, both
    fixed on draws of their own.

    Args:
        method: All parts, with a critic.
        data: Shape ``(n, *data_shape)``.
        fresh: Fresh critics of the same posterior on the same data.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2; draws of m are 8 times as many.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The bound, one value a datum, in nats.

    Raises:
        ConfigError: The method has no critic, or the fresh critics belong to other data.
        DataError: Data of another shape, or not finite.

    References:
        Nguyen, Wainwright & Jordan (2010), https://arxiv.org/abs/0809.0853, lemma 1.
    """
    check_critic(method)
    check_draws(draws)
    data = check_data(data, method.model.data_shape)
    check_same_data(len(fresh.estimate.values), len(data))
    key_offset, key_pilot, key_test = jax.random.split(key, 3)
    offset = critic_offset(method, data, key=key_offset, draws=draws, batch_size=batch_size)
    on_device, index = jnp.asarray(data), np.arange(len(data))
    claim = (method, fresh.density, offset)
    on_q, on_m = over_batches(
        lambda index, keys: _pilot(claim, on_device[index], index, keys),
        index,
        key=key_pilot,
        batch_size=batch_size,
    )
    cap = jnp.quantile(jnp.asarray(on_q), 1.0 - CAPPED_SHARE)
    total = jax.nn.logsumexp(jnp.minimum(jnp.asarray(on_m), cap), axis=1)
    parts = (*claim, draws, cap, total - jnp.log(float(on_m.shape[1])))
    (values, errors), (excess, excess_errors) = over_batches(
        lambda index, keys: _held_out(parts, on_device[index], index, keys),
        index,
        key=key_test,
        batch_size=batch_size,
        progress=progress,
    )
    return Estimate(
        "ELBO",
        "upper bound",
        "dual bound by the critic of training",
        values + excess,
        np.hypot(errors, excess_errors),
        f"{draws} draws a datum",
    )


def lowest(fresh: FreshCritics, own: Estimate) -> tuple[Estimate, Estimate]:
    """The fresh critics' estimate, and the lower of two upper bounds of the ELBO.

    That of the critic of training is taken where it is lower by more than three standard errors:
    of two bounds alike, the lower one is too low as often as not.

    Args:
        fresh: Fresh critics.
        own: :func:`critic_upper_bound` on the same data.

    Returns:
        The estimate, flagged where it lies above the bound, and the bound.
    """
    error = float(np.hypot(fresh.upper.standard_error, own.standard_error))
    if fresh.upper.mean - own.mean <= SIGMAS * error:
        return fresh.estimate, fresh.upper
    above = fresh.estimate.mean - own.mean
    error = float(np.hypot(fresh.estimate.standard_error, own.standard_error))
    if above <= SIGMAS * error:
        return fresh.estimate, own
    flag = f"{above:.2g} ± {error:.1g} nats above the upper bound by the critic of training"
    return dataclasses.replace(fresh.estimate, flag=flag), own
