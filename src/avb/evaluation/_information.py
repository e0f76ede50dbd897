"""Mutual information of data and latent vectors, and the aggregate posterior's divergence."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from avb._types import Key, Latent
from avb.evaluation._aggregate import Logs, Pool, draw_logs, make_pool
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._encode import check_encodable
from avb.evaluation._estimate import Estimate
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior, SemiImplicitPosterior

DRAWS_AT_ONCE = 16


def _over_draws(pool: Pool, bounds, draws: int, indices: Array, keys: Key):
    """Mean and error of two bounds, functions of a draw and its logs, for each datum."""

    def datum(index: Array, key: Key):
        def one(key: Key):
            return bounds(*draw_logs(pool, index, key))

        keys = jax.random.split(key, draws)
        lower, upper = jax.lax.map(one, keys, batch_size=DRAWS_AT_ONCE)
        return mean_and_error(lower), mean_and_error(upper)

    return jax.vmap(datum)(indices, keys)


@eqx.filter_jit
def _information(pool: Pool, draws: int, indices, keys):
    def bounds(z: Latent, logs: Logs):
        lower = logs.conditional - logs.left_in
        best = logs.left_in_own if pool.is_whole else logs.drawn
        return lower, logs.conditional_own - best

    return _over_draws(pool, bounds, draws, indices, keys)


@eqx.filter_jit
def _divergence(pool: Pool, draws: int, model: LatentVariableModel, indices, keys):
    def bounds(z: Latent, logs: Logs):
        log_prior = model.log_prior(z)
        return logs.drawn - log_prior, logs.left_in_own - log_prior

    return _over_draws(pool, bounds, draws, indices, keys)


def _over_pool(
    quantity: str,
    bounds: Callable[[Pool, Array, Key], Any],
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    sizes: dict[str, Any],
    batch_size: int,
    progress: Progress | None,
) -> tuple[Pool, Any]:
    """The pool of the data's posteriors, and both bounds of each datum beside it."""
    key_pool, key_draws = jax.random.split(key)
    pool = make_pool(quantity, posterior, data, key=key_pool, batch_size=batch_size, **sizes)
    found = over_batches(
        lambda indices, keys: bounds(pool, indices, keys),
        np.arange(len(data), dtype=np.int32),
        key=key_draws,
        batch_size=batch_size,
        progress=progress,
    )
    return pool, found


def _estimates(quantity: str, pool: Pool, found, detail: str) -> tuple[Estimate, Estimate]:
    """Both bounds, or twice the value where only Monte Carlo error is left."""
    (lower, lower_error), (upper, upper_error) = found
    size, count = pool.order.shape[0], pool.place.shape[0]
    detail += f", {size} of {count} data in q(z)"
    estimator = "aggregate posterior"
    if isinstance(pool.posterior, SemiImplicitPosterior):
        detail += f", K = {pool.components}"
    elif pool.is_whole:
        exact = Estimate(quantity, "exact", estimator, lower, lower_error, detail)
        return exact, exact
    return (
        Estimate(quantity, "lower bound", estimator, lower, lower_error, detail),
        Estimate(quantity, "upper bound", estimator, upper, upper_error, detail),
    )


def mutual_information(
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 16,
    mixture_size: int | None = None,
    components: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Estimate, Estimate]:
    """I(x; z) = E_x KL(q(z|x) ‖ q(z)) of the data given, with q(z) = 1/N Σ_i q(z|x_i).

    How well z tells which of the N data it came from: at most log N. Every draw meets every
    datum of the mixture once, a few at a time, in memory that grows with neither.

    With a density and all data in the mixture only Monte Carlo error is left. With
    ``mixture_size`` of them, the lower bound has the datum itself always among them, the upper
    one takes them as they were drawn (Poole et al. 2019, section 2.3).

    A semi-implicit q(z|x) is stood in for by mixtures of K conditionals, the same in numerator
    and aggregate. From fresh ones, their ratio is a normalised guess at the datum behind z:
    a lower bound (Barber & Agakov 2003). With the one that made z among them, they give
    I(x; z|S) of a random set S that knows nothing of x, hence at least I(x; z). Where only a
    part of the data is in the mixture, the upper bound's aggregate is made of fresh ones.

    Args:
        posterior: q(z|x), with a density or semi-implicit.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        mixture_size: Data in q(z), chosen at random; by default all.
        components: K, the components for each datum of a semi-implicit posterior.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower and the upper bound, one value a datum, in nats; the same estimate twice
        where it is exact. The errors know of the draws alone, not of the choice of the
        components and of the data in q(z).

    Raises:
        ConfigError: The posterior can only be sampled, or a setting is out of range.
        DataError: Data of a shape the encoder does not take, or not finite.

    References:
        Hoffman & Johnson (2016), ELBO surgery; Poole et al. (2019),
        https://arxiv.org/abs/1905.06922; Barber & Agakov (2003), The IM algorithm.
    """
    check_draws(draws)
    data = check_encodable(posterior, data)
    pool, found = _over_pool(
        "mutual information",
        lambda pool, indices, keys: _information(pool, draws, indices, keys),
        posterior,
        data,
        key=key,
        sizes={"mixture_size": mixture_size, "components": components},
        batch_size=batch_size,
        progress=progress,
    )
    detail = f"{draws} draws a datum, at most log N = {math.log(len(data)):.2f}"
    return _estimates("I(x; z)", pool, found, detail)


def aggregate_kl(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    draws: int = 16,
    mixture_size: int | None = None,
    components: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Estimate, Estimate]:
    """KL(q(z) ‖ p(z)), with q(z) = 1/N Σ_i q(z|x_i) of the data given.

    It is what E_x KL(q(z|x) ‖ p(z)) has beyond I(x; z): how far the latent vectors of the
    data are from the prior that new ones are drawn from. Bounded as
    :func:`mutual_information` is: log q(z) from below by components that know nothing of z,
    and from above by a set with the one that made z.

    Args:
        model: p(x, z), of which only the prior matters.
        posterior: q(z|x), with a density or semi-implicit.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        draws: Posterior draws a datum, at least 2.
        mixture_size: Data in q(z), chosen at random; by default all.
        components: K, the components for each datum of a semi-implicit posterior.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower and the upper bound, in nats; the same estimate twice where it is exact but
        for Monte Carlo error. A datum's value is its share of the mean, E_q[log q(z)/p(z)].

    Raises:
        ConfigError: The posterior can only be sampled, or a setting is out of range.
        DataError: Data of another shape, or not finite.

    References:
        Hoffman & Johnson (2016), ELBO surgery.
    """
    check_draws(draws)
    data = check_data(data, model.data_shape)
    pool, found = _over_pool(
        "the aggregate divergence",
        lambda pool, indices, keys: _divergence(pool, draws, model, indices, keys),
        posterior,
        data,
        key=key,
        sizes={"mixture_size": mixture_size, "components": components},
        batch_size=batch_size,
        progress=progress,
    )
    return _estimates("KL(q(z) ‖ p(z))", pool, found, f"{draws} draws a datum")
