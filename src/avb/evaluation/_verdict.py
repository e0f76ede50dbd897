"""Whether the critic of training can be believed."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._method import Method
from avb._types import Datum, Key, Scalar
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._bracket import draw_with_bounds
from avb.evaluation._critic import (
    CriticDensity,
    check_critic,
    check_same_data,
    critic_density,
    critic_offset,
)
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import SIGMAS, Estimate
from avb.evaluation._fresh import FreshCritics, fresh_critic_elbo
from avb.evaluation._fresh_training import Corner
from avb.evaluation._mixed_contrast import MixedContrast, in_pairs
from avb.evaluation._own_bound import TrainedOn, trained_on
from avb.evaluation._thickness import THIN
from avb.posteriors import AbstractTractablePosterior, SemiImplicitPosterior

# Fresh critics that find so much less than the critic they judge cannot tell what it missed. On
# MNIST they found 0.01 to 0.10 nats less where nothing folds, 2.7 to 5.5 where the posterior did.
SHORTFALL = 0.3


ITSELF = "the same critic, trained on"


class Finding(NamedTuple):
    """A number in nats per datum, averaged over the data, and its standard error."""

    nats: float
    error: float

    def exceeds(self, tolerance: float) -> bool:
        """Whether it lies above the tolerance by more than three standard errors."""
        return self.nats > tolerance + SIGMAS * self.error

    @classmethod
    def over_data(cls, values: np.ndarray, errors: np.ndarray) -> "Finding":
        """The mean of one value a datum."""
        squares = np.sum(np.square(errors, dtype=np.float64))
        return cls(float(np.mean(values, dtype=np.float64)), float(np.sqrt(squares) / len(values)))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a critic's estimate of the ELBO can be believed, and why not.

    Attributes:
        sound: Nothing speaks against it.
        reasons: A sentence for each finding against it.
        judge: What it was compared with: ``"exact density"``, ``"bracket"``, or the one that
            finds more of ``"fresh critics"`` and ``"the same critic, trained on"``.
        too_high: By how much its ELBO is too high, at the least; below 0 where its judge knows
            less than it.
        too_low: Exact density and bracket: by how much its ELBO is too low, at the least.
            Fresh critics: by how much it may be too low, E_r[exp T] − 1, which is 0 for a
            T that is the logarithm of a ratio of densities.
        doubts: A sentence for each reason why its judge cannot vouch for it, either.
    """

    sound: bool
    reasons: tuple[str, ...]
    judge: str
    too_high: Finding
    too_low: Finding
    doubts: tuple[str, ...] = ()

    @property
    def flag(self) -> str | None:
        """The reasons in one line; ``None`` where there are none."""
        return "; ".join(self.reasons) or None

    @property
    def doubt(self) -> str | None:
        """The doubts in one line; ``None`` where there are none."""
        return "; ".join(self.doubts) or None

    def beside_evidence(self, above: Finding) -> "Verdict":
        """The same, and not sound if the critic's ELBO lies above log p(x), which no ELBO can.

        It asks no other critic: what critics of training and of evaluation both fail to see,
        those pass.

        Args:
            above: By how much its ELBO lies above log p(x), at the least.
        """
        if not above.exceeds(0.0):
            return self
        reason = (
            f"{above.nats:.2g} ± {above.error:.1g} nats above log p(x) by annealed importance "
            "sampling, and what that misses on simulated data"
        )
        return dataclasses.replace(self, sound=False, reasons=(*self.reasons, reason))

    def beside_thickness(self, thickness: float) -> "Verdict":
        """The same, and not sound if the posterior is too thin for any critic to see.

        Args:
            thickness: See :func:`~avb.evaluation.thickness`.
        """
        if not thickness < THIN:
            return self
        reason = (
            f"the posterior lies in thin sheets (thickness {thickness:.2g}, 1 for a Gaussian), "
            "which critics hardly see"
        )
        return dataclasses.replace(self, sound=False, reasons=(*self.reasons, reason))

    def mark(self, estimate: Estimate) -> Estimate:
        """The critic's estimate with this verdict as its flag and its doubt."""
        return dataclasses.replace(estimate, flag=self.flag, doubt=self.doubt)

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "sound": self.sound,
            "reasons": list(self.reasons),
            "doubts": list(self.doubts),
            "judge": self.judge,
            "too_high": self.too_high._asdict(),
            "too_low": self.too_low._asdict(),
        }


@eqx.filter_jit
def _against_bounds(parts, components, x, keys):
    """By how much the critic's log q falls short of a lower, and exceeds an upper bound."""
    method, draws, offset = parts
    posterior = method.posterior

    def datum(x: Datum, key: Key):
        key_condition, key_z = jax.random.split(key)
        features = posterior.encoder(x)
        claimed = critic_density(method, x, features, key_condition, offset)
        if isinstance(posterior, SemiImplicitPosterior):
            z, below, above = draw_with_bounds(
                posterior, features, key_z, draws=draws, components=components
            )
        else:
            density = posterior.density(features)
            z = jax.vmap(density.sample)(jax.random.split(key_z, draws))
            below = above = jax.vmap(density.log_prob)(z)
        claim = jax.vmap(claimed.log_prob)(z)
        return mean_and_error(below - claim), mean_and_error(claim - above)

    return jax.vmap(datum)(x, keys)


def capped_excess(
    claimed: CriticDensity, corner: Corner, key: Key, draws: int, cap: Scalar
) -> Float[Array, " s"]:
    """Draws of the integral of the critic's density, less 1, from below."""
    mixed = MixedContrast.of(claimed, corner)
    z = mixed.draws(key, draws)
    log_ratio = jax.vmap(claimed.log_prob)(z) - mixed.log_prob(z)
    return in_pairs(jnp.expm1(jnp.minimum(log_ratio, cap)))


@eqx.filter_jit
def _against_fresh(parts, x, index, keys):
    """By how much the critic's log q falls short of its judges', and its integral less 1."""
    method, fresh, further, draws, offset, cap = parts

    def datum(x: Datum, index, key: Key):
        key_condition, key_z, key_weights = jax.random.split(key, 3)
        corner = fresh.arena.at(index)
        claimed = critic_density(method, x, corner.features, key_condition, offset)
        z = corner.posterior_draws(key_z, draws)
        claim = jax.vmap(claimed.log_prob)(z)
        return (
            mean_and_error(fresh.log_prob(index, z) - claim),
            mean_and_error(further.log_prob(x, index, key_condition, z) - claim),
            mean_and_error(capped_excess(claimed, corner, key_weights, 4 * draws, cap)),
        )

    return jax.vmap(datum)(x, index, keys)


def judge_critic(
    method: Method,
    data: np.ndarray,
    *,
    key: Key,
    fresh: FreshCritics | None = None,
    further: TrainedOn | None = None,
    tolerance: float = 0.05,
    draws: int = 64,
    components: int = 1024,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Verdict:
    """Whether the critic of training can be believed on these data.

    Its claim, log q̂ = log r + T, is compared with what is known of log q at the same
    posterior draws, so that the noise of log p(x, z) drops out:

    - where q has a density, or the bracket of a semi-implicit posterior, the critic is wrong
      as soon as its ELBO leaves them by more than three standard errors;
    - a posterior that can only be sampled is tried by fresh critics, and by the critic itself,
      trained on while q stands still. It is wrong if they find at least ``tolerance`` nats
      that it missed (its ELBO lies that far above an upper bound), or it finds twice as many
      itself: knowing all that it knew, it sees errors that no fresh critic does. It is wrong,
      too, if q̂ integrates to more than 1 + ``tolerance`` (its ELBO may lie that far below the
      truth, which no density could): each by more than three standard errors. Any T obeys
      ELBO ≤ its estimate + ∫ q̂ − 1, so these tests see both sides.
      Both findings are lower bounds: a critic is never condemned for what its judges
      failed to learn, nor for the tail of exp T, which is capped. For the same reason one
      that is wrong by hardly more than ``tolerance`` may pass. Where the fresh critics find
      much less than it claims (0.3 nats), they know less of q than it, and nobody can tell
      what it missed: the verdict has a doubt.

    Args:
        method: All parts, with a critic.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        fresh: Fresh critics of the same posterior on the same data, where there are some;
            else they are trained.
        further: The critic of training, trained on at the same data, where it was; else it is.
        tolerance: What fresh critics may find, in nats per datum; half of what the critic itself
            may, which so is 0.1 by default, as in :func:`diagnose`.
        draws: Posterior draws a datum, at least 2.
        components: K of the semi-implicit bracket.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The verdict, with the numbers it rests on.

    Raises:
        ConfigError: The method has no critic, a size is out of range, or the fresh critics
            belong to other data.
        DataError: Data of another shape, or not finite.
    """
    check_critic(method)
    check_draws(draws)
    if not tolerance >= 0.0:
        raise ConfigError(f"tolerance of the verdict: expected zero or more, got {tolerance}")
    data = check_data(data, method.model.data_shape)
    key_offset, key_fresh, key = jax.random.split(key, 3)
    key_further = jax.random.fold_in(key_fresh, 1)
    offset = critic_offset(method, data, key=key_offset, draws=draws, batch_size=batch_size)
    sizes = {"key": key, "batch_size": batch_size, "progress": progress}
    claim = (method, draws, offset)
    if isinstance(method.posterior, SemiImplicitPosterior | AbstractTractablePosterior):
        high, low = over_batches(
            lambda x, keys: _against_bounds(claim, jnp.int32(components), x, keys), data, **sizes
        )
        return _beside_bounds(method, Finding.over_data(*high), Finding.over_data(*low))
    if fresh is None:
        fresh = fresh_critic_elbo(
            method.model, method.posterior, data, key=key_fresh, batch_size=batch_size
        )
    check_same_data(len(fresh.estimate.values), len(data))
    if further is None:
        further = trained_on(method, data, fresh, key=key_further, batch_size=batch_size)
    return _beside_critics(*_missed(claim, fresh, further, data, **sizes), tolerance)


def _missed(
    claim: tuple, fresh: FreshCritics, further: TrainedOn, data: np.ndarray, **sizes: Any
) -> tuple[Finding, Finding, Finding]:
    """By how much q̂ falls short of fresh critics' and its own, trained on; its integral less 1."""
    method, draws, offset = claim
    # Weights up to the root of the number of draws have an average to rely on; the cap makes
    # it smaller, never larger.
    cap = jnp.asarray(0.5 * np.log(4.0 * draws * len(data)))
    parts = (method, fresh.density, further.bound.density, draws, offset, cap)
    on_device = jnp.asarray(data)
    by_fresh, by_itself, excess = over_batches(
        lambda index, keys: _against_fresh(parts, on_device[index], index, keys),
        np.arange(len(data)),
        **sizes,
    )
    return (
        _less_excess(by_fresh, fresh.excess),
        _less_excess(by_itself, further.bound.excess),
        Finding.over_data(*excess),
    )


def _less_excess(missed: tuple, excess: tuple) -> Finding:
    """What a judge finds missed; what it claims too much is no fault of the critic on trial."""
    return Finding.over_data(missed[0] - excess[0], np.hypot(missed[1], excess[1]))


def _beside_bounds(method: Method, high: Finding, low: Finding) -> Verdict:
    exact = isinstance(method.posterior, AbstractTractablePosterior)
    judge = "exact density" if exact else "bracket"
    upper, lower = ("the exact ELBO",) * 2 if exact else ("the upper bound", "the lower bound")
    reasons = []
    if high.exceeds(0.0):
        reasons.append(f"{high.nats:.2g} ± {high.error:.1g} nats above {upper}")
    if low.exceeds(0.0):
        reasons.append(f"{low.nats:.2g} ± {low.error:.1g} nats below {lower}")
    return Verdict(not reasons, tuple(reasons), judge, high, low)


def _beside_critics(
    by_fresh: Finding, by_itself: Finding, excess: Finding, tolerance: float
) -> Verdict:
    fresh = (by_fresh, "fresh critics", "the fresh critics' upper bound")
    itself = (by_itself, ITSELF, "the upper bound by the same critic, trained on alone")
    found = [fresh] if by_fresh.exceeds(tolerance) else []
    found += [itself] if by_itself.exceeds(2.0 * tolerance) else []
    missed, judge, whose = max(found or [fresh, itself], key=lambda one: one[0].nats)
    reasons = []
    if found:
        reasons.append(f"{missed.nats:.2g} ± {missed.error:.1g} nats above {whose}")
    if excess.exceeds(tolerance):
        reasons.append(
            f"not normalised: what it takes for q(z|x) integrates to at least "
            f"{1.0 + excess.nats:.3g} ± {excess.error:.1g}"
        )
    doubts = []
    shortfall = Finding(-by_fresh.nats, by_fresh.error)
    if shortfall.exceeds(SHORTFALL):
        doubts.append(
            f"the fresh critics, its judges, find {shortfall.nats:.2g} ± {shortfall.error:.1g} "
            "nats less of KL(q‖r) than it, and cannot tell what it missed"
        )
    return Verdict(not reasons, tuple(reasons), judge, missed, excess, tuple(doubts))
