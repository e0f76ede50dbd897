"""What the posterior is worth: the bracket of its ELBO, importance weights, log evidence."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key
from avb.evaluation._weights import log_mean_weights, pareto_k
from avb.inference._mixture import ImplicitMixture, log_mean
from avb.inference._target import Target

DRAWS = 2000
COMPONENTS = 2048
AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Two bounds of E_q[log p(z) − log q(z)], in nats, from the same draws.

    Attributes:
        lower: Lower bound; also of the log evidence.
        upper: Upper bound of the ELBO, not of the log evidence.
        lower_error: Standard error of the lower bound.
        upper_error: Standard error of the upper bound.
        draws: Posterior draws.
        components: K.
    """

    lower: float
    upper: float
    lower_error: float
    upper_error: float
    draws: int
    components: int

    def __str__(self) -> str:
        return (
            f"[{self.lower:.4f} ± {self.lower_error:.4f}, {self.upper:.4f} ± "
            f"{self.upper_error:.4f}] nats ({self.draws} draws, K = {self.components})"
        )


@dataclasses.dataclass(frozen=True)
class Importance:
    """What importance weights over the posterior's own tractable mixture tell.

    Attributes:
        log_evidence: Log of the mean weight: log ∫ p, a lower bound in expectation, in nats.
        error: Its standard error, by the delta method.
        effective: Effective number of draws.
        pareto_k: k̂ of the weights; above 0.7 the three numbers above cannot be trusted.
        draws: Number of weights.
    """

    log_evidence: float
    error: float
    effective: float
    pareto_k: float
    draws: int


@eqx.filter_jit
def _bounds(
    mixture: ImplicitMixture, target: Target, key: Key
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    key_draw, key_fresh = jax.random.split(key)
    z, own = jax.vmap(mixture.draw)(jax.random.split(key_draw, DRAWS))
    fresh = jax.random.normal(key_fresh, (COMPONENTS, mixture.noise_dim))
    without = log_mean(mixture, z, fresh, AT_ONCE)

    def given_own(z, noise):
        return mixture.log_given(mixture.frames.whiten(z), mixture.components(noise))

    total = jnp.logaddexp(without + math.log(COMPONENTS), jax.vmap(given_own)(z, own))
    log_p = jax.vmap(target.log_density)(z)
    return log_p - (total - math.log(COMPONENTS + 1.0)), log_p - without


def bracket(mixture: ImplicitMixture, target: Target, key: Key) -> Bracket:
    """Both bounds of the ELBO, as of any semi-implicit posterior.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183; Sobolev & Vetrov (2019),
        https://arxiv.org/abs/1909.03354.
    """
    lower, upper = (np.asarray(v, np.float64) for v in _bounds(mixture, target, key))
    root = math.sqrt(DRAWS)
    return Bracket(
        float(np.mean(lower)),
        float(np.mean(upper)),
        float(np.std(lower, ddof=1) / root),
        float(np.std(upper, ddof=1) / root),
        DRAWS,
        COMPONENTS,
    )


@eqx.filter_jit
def weighted_draws(
    mixture: ImplicitMixture, target: Target, key: Key
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Draws of (1/K) Σ_k q(z|ε_k) at fixed ε, and their log weights log p − log of it.

    With its ε fixed the mixture is a finite one of Gaussians: its density is exact, and so are
    the weights. As many draws as components, one from each.
    """
    key_noise, key_draw = jax.random.split(key)
    noise = jax.random.normal(key_noise, (COMPONENTS, mixture.noise_dim))

    def one(noise, key):
        key_part, key_z = jax.random.split(key)
        part = jax.random.categorical(key_part, mixture.log_weights)
        return mixture.emit(mixture.components(noise), part, key_z)

    z = jax.vmap(one)(noise, jax.random.split(key_draw, COMPONENTS))
    log_p = jax.vmap(target.log_density)(z)
    log_w = log_p - log_mean(mixture, z, noise, AT_ONCE)
    return z, jnp.nan_to_num(log_w, nan=-jnp.inf, posinf=-jnp.inf)


def importance(mixture: ImplicitMixture, target: Target, key: Key) -> Importance:
    """Log evidence and k̂ from ``weighted_draws``."""
    _, log_w = weighted_draws(mixture, target, key)
    rows = np.asarray(log_w, np.float64)[None, :]
    mean = log_mean_weights(rows)
    return Importance(
        float(mean.values[0]),
        float(mean.errors[0]),
        float(mean.effective[0]),
        float(pareto_k(rows)[0]),
        rows.size,
    )
