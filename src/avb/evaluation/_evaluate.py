"""All numbers of a method on given data, in one call."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from avb._method import Method
from avb._types import Key
from avb.evaluation._active_units import ActiveUnits, active_units
from avb.evaluation._annealed import annealed_bound
from avb.evaluation._batched import Progress, check_data
from avb.evaluation._bidirectional import bidirectional_bounds
from avb.evaluation._bracket import elbo_bracket
from avb.evaluation._config import EvaluationConfig
from avb.evaluation._critic import critic_elbo
from avb.evaluation._elbo import elbo
from avb.evaluation._estimate import Estimate
from avb.evaluation._fresh import FreshCritics, fresh_critic_elbo
from avb.evaluation._gaps import inference_gaps
from avb.evaluation._importance import importance_bound
from avb.evaluation._information import aggregate_kl, mutual_information
from avb.evaluation._own_bound import TrainedOn, sharpest, trained_on
from avb.evaluation._smoothed import smoothed_bracket
from avb.evaluation._thickness import thickness
from avb.evaluation._verdict import Finding, Verdict, judge_critic
from avb.posteriors import (
    AbstractImplicitPosterior,
    AbstractTractablePosterior,
    SemiImplicitPosterior,
)

PARTS = (
    "ELBO",
    "ELBO of q + noise",
    "fresh critics",
    "critic of training",
    "verdict on the critic",
    "importance weighting",
    "annealing",
    "annealing of simulated data",
    "inference gaps",
    "information",
    "aggregate posterior",
    "active units",
    "upper bound by the critic",
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The numbers of one method on one set of data.

    Attributes:
        rows: The estimates: the ELBO, log p(x), then how good the posterior is. A row's data
            may be the first few only; its number of values says how many.
        verdict: On the critic of training, where there is one.
        active: The latent dimensions that carry something of the datum.
    """

    rows: list[Estimate]
    verdict: Verdict | None = None
    active: ActiveUnits | None = None

    def as_dict(self) -> dict[str, Any]:
        """The summary, ready for JSON."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "critic": None if self.verdict is None else self.verdict.as_dict(),
            "active_units": None if self.active is None else self.active.as_dict(),
        }


def evaluate(
    method: Method,
    data: np.ndarray,
    *,
    key: Key,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008  (frozen)
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """The ELBO, log p(x) and the posterior's quality on data, each number with what it is.

    ==========================  ============================================================
    quantity                    rows
    ==========================  ============================================================
    ELBO                        exact where q has a density; a lower and an upper bound where
                                it is semi-implicit; else estimate and upper bound by
                                fresh critics, or by the critic of training, trained on,
                                where that knows more; and the bracket of q + noise
    ELBO, critic of training    an estimate; flagged where :func:`judge_critic` finds it wrong,
                                doubted where its judges know less than it
    log p(x)                    lower bounds by importance weighting and by annealing
    log p(x), simulated data    lower and upper bound: their gap is annealing's own error
    gaps, I(x; z), aggregate    what the family and the encoder lose, and what z tells of x
    ==========================  ============================================================

    Args:
        method: A trained method, ``FitResult.method``.
        data: Data of shape ``(n, *data_shape)`` in the values that the likelihood takes:
            binary images as 0 and 1 (:func:`avb.binarise_once`), not as pixels.
        key: PRNG key.
        config: How precisely; zero data turn a part off.
        progress: Called with the name of the present part, the data done and in all.

    Returns:
        The rows, the verdict on the critic and the active units.

    Raises:
        ConfigError: Settings out of range.
        DataError: Data of another shape, or not finite.
    """
    job = _Job(method, check_data(data, method.model.data_shape), config, key, progress)
    elbo_rows, verdict = _elbo_rows(job)
    evidence = _evidence_rows(job)
    if verdict is not None and config.annealed_data > 0:
        verdict = verdict.beside_evidence(above_evidence(elbo_rows[-1], *evidence[1:]))
        elbo_rows[-1] = verdict.mark(elbo_rows[-1])
    quality, active = _quality_rows(job, evidence)
    return Evaluation([*elbo_rows, *evidence, *quality], verdict, active)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every part of an evaluation needs."""

    method: Method
    data: np.ndarray
    config: EvaluationConfig
    key: Key
    progress: Callable[[str, int, int], None] | None

    def settings(self, part: str) -> dict[str, Any]:
        """Key and progress of a part; the key does not depend on which parts are on."""
        tell: Progress | None = None
        if self.progress is not None:
            tell = functools.partial(self.progress, part)
        return {"key": jax.random.fold_in(self.key, PARTS.index(part)), "progress": tell}


def _elbo_rows(job: _Job) -> tuple[list[Estimate], Verdict | None]:
    model, posterior, config = job.method.model, job.method.posterior, job.config
    rows: list[Estimate] = []
    fresh: FreshCritics | None = None
    further: TrainedOn | None = None
    if isinstance(posterior, AbstractTractablePosterior):
        rows.append(elbo(model, posterior, job.data, draws=config.draws, **job.settings("ELBO")))
    elif isinstance(posterior, SemiImplicitPosterior):
        rows += elbo_bracket(
            model,
            posterior,
            job.data,
            draws=config.draws,
            width=config.bracket_width,
            max_components=config.max_components,
            **job.settings("ELBO"),
        )
    elif config.critics > 0:
        fresh = fresh_critic_elbo(
            model, posterior, job.data, critics=config.critics, **job.settings("fresh critics")
        )
        further = trained_on(
            job.method, job.data, fresh, **job.settings("upper bound by the critic")
        )
        rows += [*sharpest(fresh, further), *_smoothed_rows(job)]
    if job.method.critic is None:
        return rows, None
    estimate = critic_elbo(
        job.method, job.data, draws=config.draws, **job.settings("critic of training")
    )
    if not rows:
        return [estimate], None
    settings = job.settings("verdict on the critic")
    verdict = judge_critic(job.method, job.data, fresh=fresh, further=further, **settings)
    if isinstance(posterior, AbstractImplicitPosterior):
        key = jax.random.fold_in(settings["key"], 1)
        verdict = verdict.beside_thickness(thickness(posterior, job.data, key=key))
    return [*rows, verdict.mark(estimate)], verdict


def _smoothed_rows(job: _Job) -> tuple[Estimate, Estimate]:
    return smoothed_bracket(
        job.method.model,
        job.method.posterior,
        job.data,
        draws=job.config.draws,
        components=job.config.max_components,
        **job.settings("ELBO of q + noise"),
    )


def _evidence_rows(job: _Job) -> list[Estimate]:
    model, posterior, config = job.method.model, job.method.posterior, job.config
    rows = [
        importance_bound(
            model,
            posterior,
            job.data,
            samples=config.importance_samples,
            proposal=config.proposal,
            **job.settings("importance weighting"),
        )
    ]
    if config.annealed_data > 0:
        annealing: dict[str, Any] = {
            "temperatures": config.temperatures,
            "chains": config.chains,
        }
        first = job.data[: config.annealed_data]
        settings = annealing | job.settings("annealing")
        rows.append(annealed_bound(model, posterior, first, **settings))
        settings = annealing | job.settings("annealing of simulated data")
        rows += bidirectional_bounds(model, posterior, num_data=len(first), **settings)
    return rows


def above_evidence(
    claim: Estimate, annealed: Estimate, simulated: Estimate, reverse: Estimate
) -> Finding:
    """By how much an ELBO lies above log p(x), at the least.

    Args:
        claim: The ELBO.
        annealed: A lower bound of log p(x) on the first of the same data.
        simulated: The same bound on data simulated from the model.
        reverse: An upper bound on those; what lies between the two is allowed for.
    """
    count = len(annealed.values)
    excess = Finding.over_data(
        claim.values[:count] - annealed.values, np.hypot(claim.errors[:count], annealed.errors)
    )
    gaps = np.asarray(reverse.values - simulated.values, np.float64)
    gap_error = np.std(gaps, ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.inf
    gap = max(float(np.mean(gaps)), 0.0)
    return Finding(excess.nats - gap, float(np.hypot(excess.error, gap_error)))


def _quality_rows(job: _Job, evidence: list[Estimate]) -> tuple[list[Estimate], ActiveUnits | None]:
    model, posterior, config = job.method.model, job.method.posterior, job.config
    bounded = isinstance(posterior, AbstractTractablePosterior | SemiImplicitPosterior)
    rows: list[Estimate] = []
    if bounded and config.annealed_data > 0:
        bound, first = evidence[1], job.data[: config.annealed_data]
        gaps = inference_gaps(model, posterior, first, bound, **job.settings("inference gaps"))
        rows += [gaps.approximation, gaps.amortisation]
    first = job.data[: config.quality_data]
    if len(first) < 2:
        return rows, None
    if bounded:
        rows += _unless_same(mutual_information(posterior, first, **job.settings("information")))
        settings = job.settings("aggregate posterior")
        rows += _unless_same(aggregate_kl(model, posterior, first, **settings))
    return rows, active_units(posterior, first, **job.settings("active units"))


def _unless_same(bounds: tuple[Estimate, Estimate]) -> list[Estimate]:
    """Both bounds, or the one number where it is exact."""
    lower, upper = bounds
    return [lower] if lower.kind == "exact" else [lower, upper]
