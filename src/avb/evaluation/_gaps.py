"""The gap between log p(x) and the ELBO, split into its causes."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._check import expect_positive
from avb._errors import ConfigError, DataError
from avb._types import Datum, Key
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._bracket import Side
from avb.evaluation._draws import check_draws, mean_and_error
from avb.evaluation._estimate import Estimate, Kind
from avb.evaluation._family import best_shift, elbo_draws, shifted
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior, AbstractTractablePosterior, SemiImplicitPosterior

DRAWS_AT_ONCE = 32
ESTIMATOR = "best q of the family by Adam"


@dataclasses.dataclass(frozen=True)
class InferenceGaps:
    """log p(x) − ELBO(q) and its parts, in nats per datum.

    Attributes:
        approximation: log p(x) − ELBO(q*), with q* the best posterior of the family.
        amortisation: ELBO(q*) − ELBO(q), what the encoder leaves.
        total: Their sum.
        estimation: A critic's estimate − ELBO(q), where one was given; positive where the
            critic promises too much.
    """

    approximation: Estimate
    amortisation: Estimate
    total: Estimate
    estimation: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        """The summaries by name, ready for JSON."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: gap.as_dict() for name, gap in named.items() if gap is not None}


class _Elbos(NamedTuple):
    """Mean over draws and its standard error, of one datum.

    Attributes:
        own_lower: Lower bound of ELBO(q).
        own_upper: Upper bound of ELBO(q).
        best_lower: Lower bound of ELBO(q*).
        gain: ELBO(q*) − ELBO(q), from below, by draws with common noise.
    """

    own_lower: Side
    own_upper: Side
    best_lower: Side
    gain: Side


def _many_draws(
    model, local, x: Datum, key: Key, draws: int, components: int
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """``elbo_draws`` in memory that does not grow with their number."""
    at_once = min(draws, DRAWS_AT_ONCE)
    keys = jax.random.split(key, -(-draws // at_once))
    chunks = jax.lax.map(lambda key: elbo_draws(model, local, x, key, at_once, components), keys)
    lower, upper = (chunk.reshape(-1)[:draws] for chunk in chunks)
    return lower, upper


@eqx.filter_jit
def _elbos(parts, search, x, keys) -> _Elbos:
    model, posterior, draws, components = parts

    def datum(x: Datum, key: Key) -> _Elbos:
        key_search, key_draws = jax.random.split(key)
        local = posterior, posterior.encoder(x)
        shift = best_shift(model, local, x, key_search, *search)
        own_lower, own_upper = _many_draws(model, local, x, key_draws, draws, components)
        best = shifted(local, shift)
        best_lower, _ = _many_draws(model, best, x, key_draws, draws, components)
        values = (own_lower, own_upper, best_lower, best_lower - own_upper)
        return _Elbos(*(mean_and_error(value) for value in values))

    return jax.vmap(datum)(x, keys)


def _check_posterior(posterior: AbstractPosterior) -> None:
    if not isinstance(posterior, AbstractTractablePosterior | SemiImplicitPosterior):
        raise ConfigError(
            "inference gaps need a posterior whose ELBO is known or bounded, got "
            f"{type(posterior).__name__}: use a posterior with a density or a "
            "SemiImplicitPosterior, or compare log p(x) with smoothed_bracket"
        )


def _check_estimates(count: int, log_evidence: Estimate, critic: Estimate | None) -> None:
    if log_evidence.kind not in ("exact", "lower bound"):
        raise ConfigError(
            "log_evidence: expected log p(x) as an exact value or a lower bound, got one of kind "
            f"'{log_evidence.kind}'; use importance_bound"
        )
    for name, estimate in (("log_evidence", log_evidence), ("critic", critic)):
        if estimate is not None and len(estimate.values) != count:
            raise DataError(
                f"{name}: expected one value for each of the {count} data, "
                f"got {len(estimate.values)}"
            )


def inference_gaps(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    log_evidence: Estimate,
    *,
    key: Key,
    critic: Estimate | None = None,
    steps: int = 500,
    rate: float = 0.05,
    draws: int = 256,
    components: int = 1024,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> InferenceGaps:
    """Split log p(x) − ELBO(q) of each datum into an approximation and an amortisation gap.

    q* is the best posterior that the family holds for the datum: Adam climbs the ELBO from
    q(z|x), and all that may move are the numbers the encoder gives for one datum (mean and
    scale of a Gaussian; for a flow and a semi-implicit posterior also what their networks
    see of the datum). Its ELBO is evaluated on fresh draws, with the same noise for q* and
    q. Where Adam does not improve on q, q* is q.

    What the parts are follows from that. The search may stop short of the optimum, so the
    amortisation gap is a lower bound. For a semi-implicit posterior the ELBOs are bounds, each
    taken from its safe side. The sum is a lower bound of the true gap, and exact up to Monte
    Carlo error where q has a density and ``log_evidence`` is exact. The approximation gap
    lacks what log p(x) lacks and holds what the search missed, so it bounds nothing, unless
    ``log_evidence`` is exact: then it is an upper bound.

    Args:
        model: p(x, z).
        posterior: q(z|x), with a density or semi-implicit.
        data: Shape ``(n, *data_shape)``.
        log_evidence: log p(x) of the same data, exact or a lower bound
            (:func:`importance_bound`).
        key: PRNG key.
        critic: A critic's estimate of the ELBO on the same data, if any.
        steps: Adam steps a datum.
        rate: Adam's peak rate; it falls to zero along a cosine.
        draws: Posterior draws a datum, at least 2.
        components: K of the semi-implicit bracket.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The parts and their sum, one value a datum, in nats.

    Raises:
        ConfigError: The posterior can only be sampled, a setting is out of range, or
            ``log_evidence`` is no lower bound.
        DataError: Data of another shape, or not finite; estimates of other data.

    References:
        Cremer, Li & Duvenaud (2018), https://arxiv.org/abs/1801.03558, section 3.
    """
    _check_posterior(posterior)
    check_draws(draws)
    for name, value in (("steps", steps), ("rate", rate), ("components", components)):
        expect_positive(f"{name} of the inference gaps", value)
    data = check_data(data, model.data_shape)
    _check_estimates(len(data), log_evidence, critic)
    parts = (model, posterior, draws, components)
    search = (jnp.int32(steps), jnp.float32(rate))
    elbos: _Elbos = over_batches(
        lambda x, keys: _elbos(parts, search, x, keys),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    detail = f"{draws} draws a datum, {steps} steps, {log_evidence.kind} of log p(x)"
    if isinstance(posterior, SemiImplicitPosterior):
        detail += f", K = {components}"
    return _split(elbos, posterior, log_evidence, critic, detail)


def _split(
    elbos: _Elbos,
    posterior: AbstractPosterior,
    log_evidence: Estimate,
    critic: Estimate | None,
    detail: str,
) -> InferenceGaps:
    """The gaps from the ELBOs, each with what it is."""
    exact_evidence = log_evidence.kind == "exact"
    exact = exact_evidence and isinstance(posterior, AbstractTractablePosterior)

    def gap(name: str, kind: Kind, values: np.ndarray, errors: np.ndarray) -> Estimate:
        return Estimate(f"{name} gap", kind, ESTIMATOR, values, errors, detail)

    def below_evidence(name: str, kind: Kind, elbo: Side) -> Estimate:
        error = np.hypot(log_evidence.errors, elbo[1])
        return gap(name, kind, log_evidence.values - elbo[0], error)

    return InferenceGaps(
        below_evidence(
            "approximation",
            "upper bound" if exact_evidence else "estimate, not a bound",
            elbos.best_lower,
        ),
        gap("amortisation", "lower bound", *elbos.gain),
        below_evidence("inference", "exact" if exact else "lower bound", elbos.own_upper),
        None if critic is None else _estimation(elbos, critic),
    )


def _estimation(elbos: _Elbos, critic: Estimate) -> Estimate:
    """The critic's estimate less the ELBO, or the middle of its bracket."""
    (lower, lower_error), (upper, upper_error) = elbos.own_lower, elbos.own_upper
    width = float(np.mean(upper - lower))
    return Estimate(
        "estimation gap",
        "estimate, not a bound",
        critic.estimator,
        critic.values - 0.5 * (lower + upper),
        np.hypot(critic.errors, np.maximum(lower_error, upper_error)),
        f"{critic.detail}; ELBO known to ± {0.5 * width:.3g} nats",
    )
