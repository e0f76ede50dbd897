"""A posterior as ArviZ has it: draws, log densities and diagnostics in one tree."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._errors import ConfigError
from avb._types import Key
from avb.densities._points import even_points, shifted_normal
from avb.inference._framed import FramedDensity, FramedSampler
from avb.inference._measure import AT_ONCE, COMPONENTS
from avb.inference._mixture import log_mean
from avb.inference._posterior import Approximation, Posterior, of_all
from avb.inference._target import Sites, Target

if TYPE_CHECKING:
    from xarray import DataTree


@eqx.filter_jit
def _log_p(target: Target, z: Float[Array, "n d"]) -> tuple[Array, Sites]:
    log_p = jax.vmap(target.log_density)(z)
    return log_p, jax.vmap(lambda z: target.functions.log_terms(target.arguments, z))(z)


@eqx.filter_jit
def _log_q(approximation: Approximation, z: Float[Array, "n d"], key: Key) -> Float[Array, " n"]:
    assert not isinstance(approximation, FramedSampler)
    if isinstance(approximation, FramedDensity):
        return jax.vmap(approximation.log_prob)(z)
    points = jnp.asarray(even_points(COMPONENTS, approximation.noise_dim))
    return log_mean(approximation, z, shifted_normal(points, key), AT_ONCE)


def diagnostics(posterior: Posterior) -> dict[str, Any]:
    """All numbers that a posterior has of itself, as attributes that every file format takes."""
    found: dict[str, Any] = {
        "inference_library": "avb",
        "method": posterior.fit.method,
        "converged": int(posterior.converged),
        "reasons": "; ".join(posterior.verdict.reasons),
        "parts": posterior.fit.modes,
        "steps": posterior.fit.steps,
        "sampling_time": posterior.fit.seconds,
    }
    if posterior.has_density:
        bounds, weights = posterior.elbo, posterior.importance
        found |= {
            "elbo_lower": bounds.lower,
            "elbo_lower_error": bounds.lower_error,
            "elbo_upper": bounds.upper,
            "elbo_upper_error": bounds.upper_error,
            "log_evidence": weights.log_evidence,
            "log_evidence_error": weights.error,
            "log_evidence_upper": weights.upper,
            "log_evidence_upper_error": weights.upper_error,
            "pareto_k": weights.pareto_k,
            "effective_draws": weights.effective / weights.draws,
        }
    return found


def _log_likelihood(target: Target, z: Float[Array, "n d"]) -> Sites:
    function = target.functions.log_likelihood
    if function is None:
        raise ConfigError(
            "to_arviz(log_likelihood=True): expected a NumPyro model that sees all its rows and "
            "has no discrete latent sites, got another, whose data have no likelihood one by one; "
            "compute it from the draws of sample(...)"
        )
    return of_all(function, target, z)


def as_data_tree(
    posterior: Posterior, draws: int, key: Key, *, log_likelihood: bool = False
) -> "DataTree":
    """The groups of a posterior.

    - ``posterior``: the sites, with dimensions ``chain`` (one) and ``draw``;
    - ``unconstrained_posterior``: the vector z;
    - ``sample_stats``: ``lp``, log p(z) up to the evidence, Jacobians included; where there is a
      density, ``log_q``, log q(z) over 2,048 components, and ``log_weight``, their difference;
    - ``log_prob``: the terms of ``lp`` by site, in the model's own terms, without Jacobians;
    - ``log_likelihood``: of each datum, where it is asked for.

    Bracket, evidence, k̂ and verdict are the attributes of ``posterior``.

    Args:
        posterior: With its model.
        draws: Number of draws.
        key: PRNG key.
        log_likelihood: Whether that of each datum is wanted.

    Raises:
        ConfigError: ``arviz-base`` is not installed, there is no model, or its data have no
            likelihood one by one.
    """
    try:
        from arviz_base import from_dict
    except ImportError:
        raise ConfigError(
            "to_arviz: expected arviz-base, which is not installed; run pip install 'avb[arviz]'"
        ) from None
    target = posterior.target
    key_draw, key_density = jax.random.split(key)
    z = posterior.sample_unconstrained(key_draw, (draws,))
    sites = of_all(target.functions.constrain, target, z)
    log_p, terms = _log_p(target, z)
    stats: dict[str, Any] = {"lp": log_p}
    if posterior.has_density:
        log_q = _log_q(posterior.approximation, z, key_density)
        stats |= {"log_q": log_q, "log_weight": log_p - log_q}
    groups = {
        "posterior": sites,
        "unconstrained_posterior": {"z": z},
        "sample_stats": stats,
        "log_prob": terms,
    }
    if log_likelihood:
        groups["log_likelihood"] = _log_likelihood(target, z)
    one_chain = jax.tree.map(lambda leaf: np.asarray(leaf)[None], groups)
    return from_dict(one_chain, attrs={"posterior": diagnostics(posterior)})
