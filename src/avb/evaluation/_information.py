"""Mutual information of data and latent vectors, and the aggregate posterior's divergence."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._check import expect_positive
from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar
from avb.contrasts._self import mixture
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._encode import check_encodable
from avb.evaluation._estimate import Estimate
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior, AbstractTractablePosterior, SemiImplicitPosterior

DRAWS_AT_ONCE = 16
COMPONENTS_AT_ONCE = 128


class _Pool(eqx.Module):
    """The data in the aggregate posterior, and what evaluates q(z|x) of each.

    Attributes:
        posterior: q(z|x).
        features: Those of all data, shape ``(n, f)``.
        order: The data of the pool, shape ``(m,)``.
        place: Of every datum its place in the pool, m or more outside it; shape ``(n,)``.
        key: Of the mixing variables of a semi-implicit posterior, which depend on it and on
            the datum alone.
        components: K, their number for each datum.
    """

    posterior: AbstractTractablePosterior | SemiImplicitPosterior
    features: Float[Array, "n f"]
    order: Array
    place: Array
    key: Key
    components: int = eqx.field(static=True)

    @property
    def is_whole(self) -> bool:
        """Whether all data are in the pool."""
        return self.order.shape[0] == self.place.shape[0]

    def noise(self, index: Array) -> Float[Array, "k e"]:
        """The mixing variables that stand for a datum."""
        assert isinstance(self.posterior, SemiImplicitPosterior)
        key = jax.random.fold_in(self.key, index)
        return jax.random.normal(key, (self.components, self.posterior.noise_dim))

    def log_q(self, index: Array, z: Latent) -> Scalar:
        """The log density of a datum's q at any z, or of the mixture that stands for it."""
        features = self.features[index]
        if isinstance(self.posterior, AbstractTractablePosterior):
            return self.posterior.density(features).log_prob(z)
        return mixture(self.posterior, features, self.noise(index)).log_prob(z)

    def draw(self, index: Array, key: Key) -> tuple[Latent, Scalar, Scalar]:
        """A draw z of q(z|x), and log q(z|x) twice.

        Both are exact where there is a density. Else the first is the fresh mixture, and in
        the second the component that made z replaces one of the mixture.
        """
        features = self.features[index]
        if isinstance(self.posterior, AbstractTractablePosterior):
            density = self.posterior.density(features)
            z = density.sample(key)
            return z, density.log_prob(z), density.log_prob(z)
        key_noise, key_z = jax.random.split(key)
        own = jax.random.normal(key_noise, (self.posterior.noise_dim,))
        z = self.posterior.conditional(features, own).sample(key_z)
        with_own = self.noise(index).at[-1].set(own)
        return z, self.log_q(index, z), mixture(self.posterior, features, with_own).log_prob(z)


class _Logs(NamedTuple):
    """Logs of densities at one draw z of q(z|x); of semi-implicit ones, of their mixtures.

    Attributes:
        conditional: log q(z|x), from fresh components.
        conditional_own: log q(z|x), from a set with the component that made z.
        left_in: log q(z), the datum itself in the pool, its fresh components.
        left_in_own: The same with the component that made z.
        drawn: log q(z) from the pool as drawn, be the datum in it or not.
    """

    conditional: Scalar
    conditional_own: Scalar
    left_in: Scalar
    left_in_own: Scalar
    drawn: Scalar


def _logs(pool: _Pool, index: Array, key: Key) -> tuple[Latent, _Logs]:
    """One draw of q(z|x_i) against the pool; the pool is passed a few data at a time."""
    z, fresh, own = pool.draw(index, key)
    size = pool.order.shape[0]
    at_once = max(1, min(size, COMPONENTS_AT_ONCE // pool.components))
    place = pool.place[index]

    def add(total, start):
        places = start + jnp.arange(at_once)
        # The last of the pool makes room for the datum where that is not in it.
        kept = (places != place) & (places < size - 1)
        log_qs = jax.vmap(lambda j: pool.log_q(j, z))(pool.order[jnp.minimum(places, size - 1)])
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(kept, log_qs, -jnp.inf))), None

    starts = at_once * jnp.arange(-(-size // at_once))
    others, _ = jax.lax.scan(add, jnp.full((), -jnp.inf), starts)
    last = pool.log_q(pool.order[-1], z)
    others = jnp.where(place < size - 1, jnp.logaddexp(others, last), others)
    left_in = jnp.logaddexp(others, fresh)
    drawn = jnp.where(place < size, left_in, jnp.logaddexp(others, last))
    log_size = jnp.log(float(size))
    return z, _Logs(
        fresh, own, left_in - log_size, jnp.logaddexp(others, own) - log_size, drawn - log_size
    )


def _over_draws(pool: _Pool, bounds, draws: int, indices: Array, keys: Key):
    """Mean and error of two bounds, functions of a draw and its logs, for each datum."""

    def datum(index: Array, key: Key):
        def one(key: Key):
            return bounds(*_logs(pool, index, key))

        keys = jax.random.split(key, draws)
        lower, upper = jax.lax.map(one, keys, batch_size=DRAWS_AT_ONCE)
        return mean_and_error(lower), mean_and_error(upper)

    return jax.vmap(datum)(indices, keys)


@eqx.filter_jit
def _information(pool: _Pool, draws: int, indices, keys):
    def bounds(z: Latent, logs: _Logs):
        lower = logs.conditional - logs.left_in
        best = logs.left_in_own if pool.is_whole else logs.drawn
        return lower, logs.conditional_own - best

    return _over_draws(pool, bounds, draws, indices, keys)


@eqx.filter_jit
def _divergence(pool: _Pool, draws: int, model: LatentVariableModel, indices, keys):
    def bounds(z: Latent, logs: _Logs):
        log_prior = model.log_prior(z)
        return logs.drawn - log_prior, logs.left_in_own - log_prior

    return _over_draws(pool, bounds, draws, indices, keys)


@eqx.filter_jit
def _features(posterior: AbstractPosterior, x, keys):
    return jax.vmap(posterior.encoder)(jnp.asarray(x))


def _pool(
    what: str,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    mixture_size: int | None,
    components: int,
    batch_size: int,
) -> _Pool:
    """The aggregate posterior's parts, after the settings were checked."""
    if not isinstance(posterior, AbstractTractablePosterior | SemiImplicitPosterior):
        raise ConfigError(
            f"{what} needs a posterior whose density is known or bounded, got "
            f"{type(posterior).__name__}: use a posterior with a density or a "
            "SemiImplicitPosterior"
        )
    expect_positive(f"components of {what}", components)
    count = len(data)
    size = count if mixture_size is None else mixture_size
    if not 1 <= size <= count:
        raise ConfigError(
            f"mixture_size of {what}: expected 1 to {count}, the number of data, got {size}"
        )
    key_order, key_noise = jax.random.split(key)
    order = np.arange(count)
    if size < count:
        order = np.asarray(jax.random.permutation(key_order, count))
    features = over_batches(
        lambda x, keys: _features(posterior, x, keys), data, key=key, batch_size=batch_size
    )
    if isinstance(posterior, AbstractTractablePosterior):
        components = 1
    return _Pool(
        posterior=posterior,
        features=jnp.asarray(features),
        order=jnp.asarray(order[:size], jnp.int32),
        place=jnp.asarray(np.argsort(order), jnp.int32),
        key=key_noise,
        components=components,
    )


def _estimates(quantity: str, pool: _Pool, found, detail: str) -> tuple[Estimate, Estimate]:
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

    It says how much of which of the N data it was is left in z: at most log N. Each pair of
    a draw and a datum is evaluated once, in memory that grows with neither.

    =================================  ===================================================
    posterior and data in q(z)         lower bound, upper bound
    =================================  ===================================================
    density, all                       both the same and exact but for Monte Carlo error
    density, ``mixture_size`` of them  the datum always among them; as they were drawn
    semi-implicit                      K fresh components stand for every q(z|x); K that
                                       have the one which made z among them (for a part of
                                       the data in q(z) alone, where q(z) stays fresh)
    =================================  ===================================================

    Both rest on numerator and aggregate made of the same components S: the fresh ones give a
    normalised guess at the datum behind z, hence the bound of Barber & Agakov; those with the
    maker of z give I(x; z|S), and I(x; z) ≤ I(x; z, S) = I(x; z|S), since x tells nothing of S.

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
        https://arxiv.org/abs/1905.06922, section 2.3; Barber & Agakov (2003), The IM
        algorithm.
    """
    check_draws(draws)
    data = check_encodable(posterior, data)
    key_pool, key_draws = jax.random.split(key)
    pool = _pool(
        "mutual information",
        posterior,
        data,
        key=key_pool,
        mixture_size=mixture_size,
        components=components,
        batch_size=batch_size,
    )
    found = over_batches(
        lambda indices, keys: _information(pool, draws, indices, keys),
        np.arange(len(data), dtype=np.int32),
        key=key_draws,
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
    key_pool, key_draws = jax.random.split(key)
    pool = _pool(
        "the aggregate divergence",
        posterior,
        data,
        key=key_pool,
        mixture_size=mixture_size,
        components=components,
        batch_size=batch_size,
    )
    found = over_batches(
        lambda indices, keys: _divergence(pool, draws, model, indices, keys),
        np.arange(len(data), dtype=np.int32),
        key=key_draws,
        batch_size=batch_size,
        progress=progress,
    )
    return _estimates("KL(q(z) ‖ p(z))", pool, found, f"{draws} draws a datum")
