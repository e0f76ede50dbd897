"""What the critic of training says for certain, as it is and trained on."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from avb._errors import ConfigError
from avb._method import Method
from avb._types import Datum, Key, Scalar
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._critic import (
    check_critic,
    check_same_data,
    critic_density,
    critic_elbo,
    critic_offset,
)
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import SIGMAS, Estimate
from avb.evaluation._fresh import CAPPED_SHARE, PILOT_DRAWS, FreshCritics
from avb.evaluation._fresh_training import Arena, Corner
from avb.evaluation._mixed_contrast import MixedContrast, in_pairs
from avb.evaluation._refit import refit_critic

Density = Callable[[Float[Array, "s d"]], Float[Array, " s"]]


class OwnDensity(eqx.Module):
    """A density q̂ that cannot beat q, made of a method's own critic: m(z|x) exp(T(x, z)).

    m is half the critic's contrast and half the fresh critics', T its log r + T less log m, held
    below a cap and less its log normaliser, both found on draws of their own.

    Attributes:
        method: All parts, with the critic.
        arena: The fresh critics' contrast, and the posterior.
        offset: What the critic's objective leaves to subtract from T.
        cap: T is at most this.
        log_normaliser: Estimate of log E_m[exp T] of each datum, shape ``(n,)``.
    """

    method: Method
    arena: Arena
    offset: Scalar
    cap: Scalar
    log_normaliser: Float[Array, " n"]

    def at(
        self, x: Datum, index: Int32[Array, ""], key: Key
    ) -> tuple[Corner, MixedContrast, Density]:
        """Posterior, m and T of one datum."""
        corner = self.arena.at(index)
        claimed = critic_density(self.method, x, corner.features, key, self.offset)
        mixed = MixedContrast.of(claimed, corner)

        def log_ratio(z: Float[Array, "s d"]) -> Float[Array, " s"]:
            ratio = jax.vmap(claimed.log_prob)(z) - mixed.log_prob(z)
            return jnp.minimum(ratio, self.cap) - self.log_normaliser[index]

        return corner, mixed, log_ratio

    def log_prob(
        self, x: Datum, index: Int32[Array, ""], key: Key, z: Float[Array, "s d"]
    ) -> Float[Array, " s"]:
        """Log q̂ of one datum at several latent vectors, in nats."""
        _, mixed, log_ratio = self.at(x, index, key)
        return mixed.log_prob(z) + log_ratio(z)


@dataclasses.dataclass(frozen=True)
class OwnBound:
    """An upper bound of the ELBO by a method's own critic, and the density it rests on.

    Attributes:
        upper: The bound, up to Monte Carlo error, whatever the critic learnt.
        density: What the bound takes for q(z|x).
        excess: E_m[exp T] − 1 of each datum and its standard error, both of shape ``(n,)``.
    """

    upper: Estimate
    density: OwnDensity
    excess: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What the critic of training says once it alone was trained on.

    Attributes:
        estimate: :func:`critic_elbo` of that critic.
        bound: Its :func:`critic_upper_bound`, with the density it rests on.
    """

    estimate: Estimate
    bound: OwnBound


@eqx.filter_jit
def _pilot(density: OwnDensity, x, index, keys):
    def datum(x: Datum, index, key: Key):
        key_condition, key = jax.random.split(key)
        corner, mixed, log_ratio = density.at(x, index, key_condition)
        key_q, key_m = jax.random.split(key)
        on_q = log_ratio(corner.posterior_draws(key_q, PILOT_DRAWS))
        return on_q, log_ratio(mixed.draws(key_m, 4 * PILOT_DRAWS))

    return jax.vmap(datum)(x, index, keys)


@eqx.filter_jit
def _held_out(parts, x, index, keys):
    density, draws = parts

    def datum(x: Datum, index, key: Key):
        key_condition, key = jax.random.split(key)
        corner, mixed, log_ratio = density.at(x, index, key_condition)
        key_q, key_m = jax.random.split(key)
        z = corner.posterior_draws(key_q, draws)
        log_joint = jax.vmap(density.method.model.log_joint, in_axes=(None, 0))(x, z)
        excess = in_pairs(jnp.expm1(log_ratio(mixed.draws(key_m, 4 * draws))))
        return mean_and_error(log_joint - mixed.log_prob(z) - log_ratio(z)), mean_and_error(excess)

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
    data = _checked(method, data, fresh, draws)
    settings = {"key": key, "draws": draws, "batch_size": batch_size}
    return own_bound(method, data, fresh, **settings, progress=progress).upper


def _checked(method: Method, data: np.ndarray, fresh: FreshCritics, draws: int) -> np.ndarray:
    """The data, of a method with a critic and of the same size as those of the fresh critics."""
    check_critic(method)
    check_draws(draws)
    data = check_data(data, method.model.data_shape)
    check_same_data(len(fresh.estimate.values), len(data))
    return data


def own_bound(
    method: Method,
    data: np.ndarray,
    fresh: FreshCritics,
    *,
    key: Key,
    draws: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> OwnBound:
    """:func:`critic_upper_bound` with the density that it rests on; its arguments are checked."""
    key_offset, key_pilot, key_test = jax.random.split(key, 3)
    offset = critic_offset(method, data, key=key_offset, draws=draws, batch_size=batch_size)
    on_device, index = jnp.asarray(data), np.arange(len(data))
    uncapped = OwnDensity(
        method, fresh.density.arena, offset, jnp.asarray(jnp.inf), jnp.zeros(len(data))
    )
    on_q, on_m = over_batches(
        lambda index, keys: _pilot(uncapped, on_device[index], index, keys),
        index,
        key=key_pilot,
        batch_size=batch_size,
    )
    cap = jnp.quantile(jnp.asarray(on_q), 1.0 - CAPPED_SHARE)
    total = jax.nn.logsumexp(jnp.minimum(jnp.asarray(on_m), cap), axis=1)
    log_normaliser = total - jnp.log(float(on_m.shape[1]))
    density = OwnDensity(method, fresh.density.arena, offset, cap, log_normaliser)
    (values, errors), excess = over_batches(
        lambda index, keys: _held_out((density, draws), on_device[index], index, keys),
        index,
        key=key_test,
        batch_size=batch_size,
        progress=progress,
    )
    upper = Estimate(
        "ELBO",
        "upper bound",
        "dual bound by the critic of training",
        values + excess[0],
        np.hypot(errors, excess[1]),
        f"{draws} draws a datum",
    )
    return OwnBound(upper, density, excess)


def trained_on(
    method: Method,
    data: np.ndarray,
    fresh: FreshCritics,
    *,
    key: Key,
    steps: int = 2000,
    draws: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> TrainedOn:
    """The critic of training, trained on at these data while posterior and contrast stand still.

    A judge of itself that knows no less than it; fresh critics may, where what there is to learn
    took the whole of training.

    Args:
        method: All parts, with a critic.
        data: Shape ``(n, *data_shape)``.
        fresh: Fresh critics of the same posterior on the same data, for their contrast.
        key: PRNG key.
        steps: Training steps; draws are new at each.
        draws: Held-out posterior draws a datum, at least 2.
        batch_size: Data at a time in the evaluation.
        progress: Called with the data evaluated and those in all.

    Raises:
        ConfigError: The method has no critic, a size is out of range, or the fresh critics belong
            to other data.
        DataError: Data of another shape, or not finite.
    """
    data = _checked(method, data, fresh, draws)
    if steps < 1:
        raise ConfigError(f"further steps of the critic: expected at least 1, got {steps}")
    key_refit, key_estimate, key_bound = jax.random.split(key, 3)
    refitted = refit_critic(method, jnp.asarray(data), key_refit, steps)
    estimate = critic_elbo(refitted, data, key=key_estimate, draws=draws, batch_size=batch_size)
    bound = own_bound(
        refitted,
        data,
        fresh,
        key=key_bound,
        draws=draws,
        batch_size=batch_size,
        progress=progress,
    )
    detail = f"{steps} further steps of its critic, {draws} draws a datum"

    def told(estimate: Estimate) -> Estimate:
        name = f"{estimate.estimator}, trained on"
        return dataclasses.replace(estimate, estimator=name, detail=detail)

    return TrainedOn(told(estimate), dataclasses.replace(bound, upper=told(bound.upper)))


def sharpest(fresh: FreshCritics, own: TrainedOn) -> tuple[Estimate, Estimate]:
    """Estimate and upper bound of the ELBO by those who know most of q.

    That is the critic of training, trained on, where its bound is lower by more than three
    standard errors: of two bounds alike, the lower one is too low as often as not.

    Args:
        fresh: Fresh critics.
        own: :func:`trained_on` at the same data.

    Returns:
        The estimate, and the bound.
    """
    upper = own.bound.upper
    error = float(np.hypot(fresh.upper.standard_error, upper.standard_error))
    if fresh.upper.mean - upper.mean > SIGMAS * error:
        return own.estimate, upper
    return fresh.estimate, fresh.upper
