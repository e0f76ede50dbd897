"""Which part of an adversary is at fault: the contrast, the critic's training, or its network."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avb._errors import ConfigError
from avb._method import Method
from avb._types import Key
from avb.contrasts import AbstractContrast
from avb.evaluation._batched import check_data, over_batches
from avb.evaluation._critic import check_critic
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._fault import Fault, in_words, name_fault
from avb.evaluation._fresh import FreshCritics, fresh_critic_elbo
from avb.evaluation._fresh_training import Arena, prepare
from avb.evaluation._look import Look, Setting, look
from avb.evaluation._reference import Reference
from avb.evaluation._refit import gradient_norms, refit_critic
from avb.evaluation._thickness import thickness
from avb.evaluation._verdict import Finding
from avb.posteriors import (
    AbstractImplicitPosterior,
    AbstractTractablePosterior,
    SemiImplicitPosterior,
)
from avb.training._guard import PARTS

BATCH_SIZE = 16
SCATTER = 1000


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The state of an adversary, in nats per datum with standard errors.

    Attributes:
        fault: The part at fault.
        sentence: The fault, its size and what to do, in words.
        reference: Where log q comes from: ``"exact density"``, ``"mixture of … conditionals"``,
            ``"fresh critics"`` or ``"refitted critic"``.
        divergence: KL(q‖r): what the critic has to learn.
        misfit: How much of it a Gaussian with the moments of q would spare the critic.
        too_high: E_q[T* − T]: by how much the critic's ELBO is too high.
        refitted_too_high: The same after the critic alone was trained on.
        excess: E_r[exp T] − 1, from below; 0 where r exp T is a density.
        loss: The critic's objective on held-out draws.
        refitted_loss: The same after the critic alone was trained on.
        best_loss: The objective at the reference's T*.
        accuracy: How often the critic tells a draw of q from one of r.
        best_accuracy: The same by the reference's T*.
        logits: The 1%, 50% and 99% quantile of T at draws of q, then of r.
        slope_error: Root of E_q|∇_z T − ∇_z T*|² over E_q|∇_z log q|², whitened.
        thickness: Of an implicit posterior, see :func:`thickness`; else ``None``.
        gradient_norms: Root mean square gradient norm of each part.
        scatter: Pairs (T*, T) at draws of q and of r for a picture, each of shape ``(s, 2)``.
    """

    fault: Fault
    sentence: str
    reference: str
    divergence: Finding
    misfit: Finding
    too_high: Finding
    refitted_too_high: Finding
    excess: Finding
    loss: float
    refitted_loss: float
    best_loss: float
    accuracy: float
    best_accuracy: float
    logits: tuple[float, ...]
    slope_error: float
    thickness: float | None
    gradient_norms: dict[str, float]
    scatter: tuple[np.ndarray, np.ndarray]

    def as_dict(self) -> dict[str, Any]:
        """All but the scatter, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["scatter"]
        return {
            name: value._asdict() if isinstance(value, Finding) else value
            for name, value in fields.items()
        }


def diagnose(
    method: Method,
    data: np.ndarray,
    *,
    key: Key,
    tolerance: float = 0.1,
    steps: int = 2000,
    draws: int = 32,
    progress: Callable[[str, int, int], None] | None = None,
) -> Diagnosis:
    """Look at every part of a trained adversary, and name the one at fault.

    The contrast is at fault if a Gaussian with the moments of q would spare the critic half of
    what it misses or more. If not, the critic is trained on while posterior and contrast stand
    still: it lagged if that halves the error, and its network is too weak if it does not. Before
    all that, an implicit posterior is at fault if it is thin, see
    :func:`~avb.evaluation.thickness`: critics hardly see its folds.

    Log q is the exact density, a large mixture of conditionals, or for a posterior that can only be
    sampled the better of two: fresh critics over a Gaussian with its moments, and the
    critic that was trained on. The better is the one with the larger E_q[log q̂] + 1 − ∫ q̂,
    which does not exceed E_q[log q], up to Monte Carlo error and a cap on q̂ / r.

    Args:
        method: All parts, with a critic.
        data: Shape ``(n, *data_shape)``; a few hundred are enough.
        key: PRNG key.
        tolerance: Error of the critic's ELBO that is no fault, in nats per datum.
        steps: Steps for which critics are trained.
        draws: Posterior draws a datum, at least 2.
        progress: Called with what is being done, how much of it is done, and how much there is.

    Returns:
        The numbers, and the part at fault.

    Raises:
        ConfigError: The method has no critic, or a size is out of range.
        DataError: Data of another shape, or not finite.
    """
    check_critic(method)
    check_draws(draws)
    if steps < 1:
        raise ConfigError(f"steps of a diagnosis: expected at least 1, got {steps}")
    if not tolerance >= 0.0:
        raise ConfigError(f"tolerance of a diagnosis: expected zero or more, got {tolerance}")
    data = check_data(data, method.model.data_shape)
    key_fresh, key_refit, key_norms, key_thickness, key = jax.random.split(key, 5)
    fresh, arena = _fresh(method, data, key=key_fresh, steps=steps, progress=progress)
    if progress is not None:
        progress("critic trained on", 0, 1)
    on_device = jnp.asarray(data)
    refitted = refit_critic(method, on_device, key_refit, steps)
    norms = np.asarray(gradient_norms(method, on_device, key_norms))
    if progress is not None:
        progress("critic trained on", 1, 1)
    reference = Reference(method.posterior, None if fresh is None else fresh.density)
    setting = Setting(method, refitted, reference, arena)
    cap = jnp.asarray(0.5 * np.log(4.0 * draws * len(data)))
    seen: Look = over_batches(
        lambda index, keys: look(setting, draws, cap, on_device[index], index, keys),
        np.arange(len(data)),
        key=key,
        batch_size=BATCH_SIZE,
        progress=None if progress is None else partial(progress, "draws"),
    )
    told: dict[str, float] = dict(zip(PARTS, norms.tolist(), strict=True))
    thin = None
    if isinstance(method.posterior, AbstractImplicitPosterior):
        thin = thickness(method.posterior, data, key=key_thickness)
    return _diagnosis(method, seen, fresh, reference.name, told, thin, tolerance)


def _fresh(method: Method, data, *, key: Key, steps: int, progress) -> tuple[Any, Arena]:
    """Fresh critics where nothing else tells log q, and the Gaussian with the moments of q."""
    if isinstance(method.posterior, AbstractTractablePosterior | SemiImplicitPosterior):
        return None, prepare(method.posterior, data, key=key, batch_size=BATCH_SIZE)
    fresh = fresh_critic_elbo(
        method.model,
        method.posterior,
        data,
        key=key,
        critics=1,
        steps=steps,
        batch_size=BATCH_SIZE,
        progress=None if progress is None else partial(progress, "fresh critic"),
    )
    return fresh, fresh.density.arena


class _Claim(NamedTuple):
    """What is claimed for log q − log r at draws of q and of r, and its excess over a density."""

    on_q: np.ndarray
    on_r: np.ndarray
    excess: tuple[np.ndarray, np.ndarray]

    def certain(self) -> float:
        """At most E_q[log q − log r], whatever is claimed."""
        return float(np.mean(self.on_q) - np.mean(self.excess[0]))

    def accuracy(self) -> float:
        """How often its sign tells a draw of q from one of r."""
        return 0.5 * float(np.mean(self.on_q > 0) + np.mean(self.on_r < 0))


def _claim(method: Method, on_q: np.ndarray, on_r: np.ndarray, excess: tuple) -> _Claim:
    """A critic's claim, less the constant that its objective leaves to it."""
    assert method.objective is not None
    offset = float(method.objective.offset(_by_draw(method, on_r)))
    shrunk = np.exp(-offset)
    return _Claim(
        on_q - offset, on_r - offset, (shrunk * (1.0 + excess[0]) - 1.0, shrunk * excess[1])
    )


def _by_draw(method: Method, on_r: np.ndarray) -> jax.Array:
    return jnp.asarray(on_r).reshape(-1, method.contrast_draws)


def _loss(method: Method, claim: _Claim) -> float:
    assert method.objective is not None
    on_q = jnp.asarray(claim.on_q).reshape(-1)
    return float(method.objective.loss(on_q, _by_draw(method, claim.on_r)))


def _missed(best: _Claim, claim: _Claim) -> Finding:
    """By how much the ELBO of a claim is too high, at the least."""
    return _finding(best.on_q - claim.on_q, best.excess)


def _finding(values: np.ndarray, excess: tuple[np.ndarray, np.ndarray] | None = None) -> Finding:
    """Mean over draws and data, less an excess of each datum where one is given."""
    means, errors = (np.asarray(part) for part in jax.vmap(mean_and_error)(jnp.asarray(values)))
    if excess is not None:
        means, errors = means - excess[0], np.hypot(errors, excess[1])
    return Finding.over_data(means, errors)


def _pairs(best: np.ndarray, claimed: np.ndarray) -> np.ndarray:
    """Some pairs over all data."""
    pairs = np.stack([best.reshape(-1), claimed.reshape(-1)], axis=1)
    return pairs[:: max(1, len(pairs) // SCATTER)]


def _diagnosis(
    method: Method,
    seen: Look,
    fresh: FreshCritics | None,
    name: str,
    norms: dict[str, float],
    thin: float | None,
    tolerance: float,
) -> Diagnosis:
    zeros = np.zeros(len(seen.ratio))
    excess = (zeros, zeros) if fresh is None else fresh.excess
    best, slope = _Claim(seen.ratio, seen.ratio_on_r, excess), seen.slope
    now = _claim(method, seen.value, seen.value_on_r, seen.excess)
    later = _claim(method, seen.refitted, seen.refitted_on_r, seen.excess_refitted)
    if fresh is not None and later.certain() > best.certain():
        best, slope, name = later, seen.slope_refitted, "refitted critic"
    numbers = {
        "divergence": _finding(best.on_q, best.excess),
        "misfit": _finding(seen.gain),
        "too_high": _missed(best, now),
        "refitted_too_high": _missed(best, later),
        "excess": Finding.over_data(*now.excess),
    }
    assert isinstance(method.contrast, AbstractContrast)
    fault = name_fault(**numbers, thickness=thin, tolerance=tolerance)
    quantiles = [np.quantile(part, (0.01, 0.5, 0.99)) for part in (now.on_q, now.on_r)]
    return Diagnosis(
        fault=fault,
        sentence=in_words(fault, **numbers, thickness=thin, contrast=method.contrast),
        reference=name,
        **numbers,
        loss=_loss(method, now),
        refitted_loss=_loss(method, later),
        best_loss=_loss(method, best),
        accuracy=now.accuracy(),
        best_accuracy=best.accuracy(),
        logits=tuple(np.concatenate(quantiles).tolist()),
        slope_error=float(np.sqrt(np.mean(slope) / np.mean(seen.score))),
        thickness=thin,
        gradient_norms=norms,
        scatter=(_pairs(best.on_q, now.on_q), _pairs(best.on_r, now.on_r)),
    )
