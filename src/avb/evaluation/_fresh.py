"""The ELBO of a frozen posterior by critics trained for the purpose, and a bound from above."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from avb._errors import ConfigError
from avb._types import Key, Scalar
from avb.critics import ResidualCritic
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import Estimate
from avb.evaluation._fresh_training import (
    CONTRAST_DRAWS,
    Arena,
    Corner,
    fresh_critic,
    prepare,
    train,
)
from avb.models import LatentVariableModel
from avb.objectives import WeightedLogistic
from avb.posteriors import AbstractPosterior

PILOT_DRAWS = 64
CAPPED_SHARE = 1e-3


class FreshDensity(eqx.Module):
    """A density q̂ that cannot beat q: r(z|x) exp(T(x, z)), with T fixed before the test.

    T is the mean of the critics, held below a cap and less its log normaliser, both found
    on draws of their own. For any such T, E_q[log q] ≥ E_q[log q̂] + 1 − E_r[exp T].

    Attributes:
        arena: The posterior and the contrast r.
        critics: The trained critics.
        cap: T is at most this; contrast draws beyond what posterior draws reach are the
            critics' extrapolation, and would carry the whole of E_r[exp T].
        log_normaliser: Estimate of log E_r[exp T] of each datum, shape ``(n,)``.
    """

    arena: Arena
    critics: tuple[ResidualCritic, ...]
    cap: Scalar
    log_normaliser: Float[Array, " n"]

    def pooled(self, corner: Corner, z: Float[Array, "s d"]) -> Float[Array, " s"]:
        """The mean of the critics, before cap and normaliser."""
        values = jnp.stack([corner.values(critic, z) for critic in self.critics])
        return jnp.mean(values, axis=0)

    def log_ratio(self, index: Int32[Array, ""], pooled: Float[Array, " s"]) -> Float[Array, " s"]:
        """T of one datum from the mean of the critics, in nats."""
        return jnp.minimum(pooled, self.cap) - self.log_normaliser[index]

    def log_prob(self, index: Int32[Array, ""], z: Float[Array, "s d"]) -> Float[Array, " s"]:
        """Log q̂ of one datum at several latent vectors, in nats."""
        corner = self.arena.at(index)
        log_r = jax.vmap(corner.contrast.log_prob)(z)
        return log_r + self.log_ratio(index, self.pooled(corner, z))


@dataclasses.dataclass(frozen=True)
class FreshCritics:
    """What fresh critics found, on draws that none of them was trained on.

    Attributes:
        estimate: Mean over the critics of E_q[log p(x, z) − log r − T]. Its errors hold n
            times the variance of that mean, since a critic errs alike on all data: so the
            standard error of the mean over data is right, and each single one too wide.
        upper: An upper bound of the ELBO, up to Monte Carlo error, whatever the critics learnt.
        means: The ELBO by each critic, in nats per datum.
        losses: Each critic's weighted logistic loss; see :class:`avb.objectives.WeightedLogistic`.
        accuracies: How often each critic tells a posterior draw from a contrast draw.
        density: What the bound takes for q(z|x), for :func:`judge_critic`.
        excess: E_r[exp T] − 1 of each datum and its standard error, both of shape ``(n,)``.
    """

    estimate: Estimate
    upper: Estimate
    means: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    density: FreshDensity
    excess: tuple[np.ndarray, np.ndarray]

    def as_dict(self) -> dict[str, Any]:
        """The summary, ready for JSON."""
        return {
            "estimate": self.estimate.as_dict(),
            "upper": self.upper.as_dict(),
            "elbo_of_each_critic": list(self.means),
            "held_out_loss": list(self.losses),
            "held_out_accuracy": list(self.accuracies),
        }


class _HeldOut(NamedTuple):
    """Of each datum: means and errors of both numbers, and what each critic says."""

    critics: tuple[Any, Any]
    bound: tuple[Any, Any]
    excess: tuple[Any, Any]
    means: Any
    losses: Any
    accuracies: Any


@eqx.filter_jit
def _pilot(density: FreshDensity, index, keys):
    def datum(index, key: Key):
        corner = density.arena.at(index)
        key_q, key_r = jax.random.split(key)
        on_q = corner.posterior_draws(key_q, PILOT_DRAWS)
        on_r = corner.contrast_draws(key_r, CONTRAST_DRAWS * PILOT_DRAWS)
        return density.pooled(corner, on_q), density.pooled(corner, on_r)

    return jax.vmap(datum)(index, keys)


def fix_density(
    arena: Arena, critics: tuple[ResidualCritic, ...], *, key: Key, batch_size: int
) -> FreshDensity:
    """Cap and normalise the mean of trained critics, on draws of their own."""
    count = len(arena.features)
    density = FreshDensity(arena, critics, jnp.asarray(jnp.inf), jnp.zeros(count))
    on_q, on_r = over_batches(
        lambda index, keys: _pilot(density, index, keys),
        np.arange(count),
        key=key,
        batch_size=batch_size,
    )
    cap = jnp.quantile(jnp.asarray(on_q), 1.0 - CAPPED_SHARE)
    log_normaliser = jax.nn.logsumexp(jnp.minimum(jnp.asarray(on_r), cap), axis=1)
    return FreshDensity(arena, critics, cap, log_normaliser - jnp.log(float(on_r.shape[1])))


@eqx.filter_jit
def _held_out(parts, x, index, keys) -> _HeldOut:
    model, density, draws = parts

    def datum(x, index, key: Key) -> _HeldOut:
        corner = density.arena.at(index)
        key_q, key_r = jax.random.split(key)
        z = corner.posterior_draws(key_q, draws)
        drawn = corner.contrast_draws(key_r, CONTRAST_DRAWS * draws)
        on_q = jnp.stack([corner.values(critic, z) for critic in density.critics])
        on_r = jnp.stack([corner.values(critic, drawn) for critic in density.critics])
        log_joint = jax.vmap(model.log_joint, in_axes=(None, 0))(x, z)
        over_contrast = log_joint - jax.vmap(corner.contrast.log_prob)(z)
        ratio = density.log_ratio(index, jnp.mean(on_q, axis=0))
        excess = jnp.expm1(density.log_ratio(index, jnp.mean(on_r, axis=0)))
        paired = on_r.reshape(len(on_r), draws, CONTRAST_DRAWS)
        return _HeldOut(
            mean_and_error(over_contrast - jnp.mean(on_q, axis=0)),
            mean_and_error(over_contrast - ratio),
            mean_and_error(excess),
            jnp.mean(over_contrast) - jnp.mean(on_q, axis=1),
            jax.vmap(WeightedLogistic().loss)(on_q, paired),
            0.5 * (jnp.mean(on_q > 0, axis=1) + jnp.mean(on_r < 0, axis=1)),
        )

    return jax.vmap(datum)(x, index, keys)


def fresh_critic_elbo(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    critics: int = 3,
    steps: int = 2000,
    draws: int = 64,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> FreshCritics:
    """The ELBO of any posterior by critics trained on it while it stands still.

    The contrast is the Gaussian with the moments of many draws of each datum (512, and more
    from d = 6 on: their noise costs 0.02 nats), so that little is left to learn. Critics read
    the posterior's features and are trained on these data, on new draws at every step; draws
    that none of them saw then give two numbers:

    - an estimate, the mean over the critics of E_q[log p(x, z) − log r − T]. It bounds
      nothing, but the spread of the critics tells how much each learnt;
    - an upper bound. For any fixed T, KL(q‖r) ≥ E_q[T] − E_r[exp T] + 1, hence

          ELBO ≤ E_q[log p(x, z) − log r − T] + E_r[exp T] − 1,

      up to Monte Carlo error, even where the critics learnt nothing. T is the mean of the
      critics, capped where no posterior draw comes and less its log normaliser, both fixed
      on draws of their own.

    The better the critics, the lower the bound: it exceeds the ELBO by KL(q‖q̂), with
    q̂ = r exp(T).

    Args:
        model: p(x, z).
        posterior: q(z|x), only sampled.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        critics: Number of critics, each from its own start on its own draws.
        steps: Training steps of each critic.
        draws: Held-out posterior draws a datum, at least 2; contrast draws are 4 times as many.
        batch_size: Data at a time in the evaluation.
        progress: Called with the critics trained and those in all.

    Returns:
        The estimate, the upper bound, and each critic's held-out loss and accuracy.

    Raises:
        ConfigError: Too few critics, steps or draws.
        DataError: Data of another shape, or not finite.

    References:
        Nguyen, Wainwright & Jordan (2010), https://arxiv.org/abs/0809.0853, lemma 1;
        Mescheder, Nowozin & Geiger (2017), https://arxiv.org/abs/1701.04722, eq. 3.8.
    """
    for name, value in {"critics": critics, "steps": steps}.items():
        if value < 1:
            raise ConfigError(f"{name} of the fresh critics: expected at least 1, got {value}")
    check_draws(draws)
    data = check_data(data, model.data_shape)
    key_moments, key_train, key_pilot, key_test = jax.random.split(key, 4)
    arena = prepare(posterior, data, key=key_moments, batch_size=batch_size)
    trained = []
    for one in jax.random.split(key_train, critics):
        key_init, key_steps = jax.random.split(one)
        critic = fresh_critic(arena, key_init)
        trained.append(jax.block_until_ready(train(critic, arena, key_steps, steps)))
        if progress is not None:
            progress(len(trained), critics)
    density = fix_density(arena, tuple(trained), key=key_pilot, batch_size=batch_size)
    on_device = jnp.asarray(data)
    found: _HeldOut = over_batches(
        lambda index, keys: _held_out((model, density, draws), on_device[index], index, keys),
        np.arange(len(data)),
        key=key_test,
        batch_size=batch_size,
    )
    return _summary(found, density, f"{critics} critics, {steps} steps, {draws} draws a datum")


def _summary(found: _HeldOut, density: FreshDensity, detail: str) -> FreshCritics:
    means, losses, accuracies = (
        tuple(np.atleast_1d(np.mean(part, axis=0, dtype=np.float64)).tolist())
        for part in (found.means, found.losses, found.accuracies)
    )
    # Of the mean over critics; one critic alone has no spread to tell its error by.
    count = len(means)
    shared = np.var(means, ddof=1) / count if count > 1 else 0.0
    values, errors = found.critics
    told = (
        f"{detail}, each critic {', '.join(f'{m:.3f}' for m in means)}, "
        f"held-out accuracy {np.mean(accuracies):.3f}"
    )
    estimate = Estimate(
        "ELBO",
        "critic estimate, not a bound",
        "fresh critics",
        values,
        np.sqrt(errors**2 + len(values) * shared),
        told,
    )
    upper, upper_error = found.bound
    excess, excess_error = found.excess
    bound = Estimate(
        "ELBO",
        "upper bound",
        "fresh critics",
        upper + excess,
        np.hypot(upper_error, excess_error),
        f"{detail}, dual bound of KL(q, r)",
    )
    return FreshCritics(estimate, bound, means, losses, accuracies, density, found.excess)
