"""What the posterior is worth: the bracket of its ELBO, importance weights, log evidence."""

import dataclasses
import math
from typing import NamedTuple

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


MAX_PARETO_K = 0.7
# With this share of effective draws all weights are about equal, and k̂ fits a tail of nothing.
EQUAL_SHARE = 0.99


@dataclasses.dataclass(frozen=True)
class Importance:
    """What importance weights over the posterior's own tractable mixture tell.

    Attributes:
        log_evidence: Log of the mean weight: log ∫ p, a lower bound in expectation, in nats.
        error: Its standard error, by the delta method.
        effective: Effective number of draws.
        pareto_k: k̂ of the weights; above 0.7 the three numbers above cannot be trusted, unless
            nearly all draws are effective.
        draws: Number of weights.
    """

    log_evidence: float
    error: float
    effective: float
    pareto_k: float
    draws: int

    @property
    def trusted(self) -> bool:
        """Whether k̂ is at most 0.7, or the weights are equal but for a hundredth."""
        return self.pareto_k <= MAX_PARETO_K or self.effective >= EQUAL_SHARE * self.draws


class Weighed(NamedTuple):
    """Draws and their log ratios.

    Attributes:
        lower: log p − log 1/(K+1) Σ_{k=0..K} q(z|ε_k), one a posterior draw.
        upper: log p − log 1/K Σ_{k=1..K} q(z|ε_k), likewise.
        z: K draws of the finite mixture (1/K) Σ_k q(z|ε_k), one from each component.
        log_weights: Their log p − log of that mixture, which is exact.
    """

    lower: Float[Array, " s"]
    upper: Float[Array, " s"]
    z: Float[Array, "k d"]
    log_weights: Float[Array, " k"]


class Proposed(NamedTuple):
    """Draws whose log p is still to be had: ``DRAWS`` of q, then one from each component.

    Attributes:
        z: All draws, shape ``(s + k, d)``.
        log_mixture: Log (1/K) Σ_k q(z|ε_k) of each.
        log_own: Log q(z|ε₀) of the draws of q, shape ``(s,)``.
    """

    z: Float[Array, "n d"]
    log_mixture: Float[Array, " n"]
    log_own: Float[Array, " s"]


@eqx.filter_jit
def propose(mixture: ImplicitMixture, key: Key) -> Proposed:
    """Draws for the bracket and for importance weights over the same fresh ε.

    With its ε fixed the posterior is a finite mixture of Gaussians, whose density is exact; the
    weights over it are proper importance weights.
    """
    key_draw, key_fresh, key_finite = jax.random.split(key, 3)
    noise = jax.random.normal(key_fresh, (COMPONENTS, mixture.noise_dim))

    def draw(key):
        # Each draw's own log q(z|ε) as well, to spare a second pass over the network.
        z, own = mixture.draw(key)
        return z, mixture.log_given(mixture.frames.whiten(z), mixture.components(own))

    def one_of(noise, key):
        key_part, key_z = jax.random.split(key)
        part = jax.random.categorical(key_part, mixture.log_weights)
        return mixture.emit(mixture.components(noise), part, key_z)

    own_z, log_own = jax.vmap(draw)(jax.random.split(key_draw, DRAWS))
    finite_z = jax.vmap(one_of)(noise, jax.random.split(key_finite, COMPONENTS))
    z = jnp.concatenate([own_z, finite_z])
    return Proposed(z, log_mean(mixture, z, noise, AT_ONCE), log_own)


def weighed(proposed: Proposed, log_p: Float[Array, " n"]) -> Weighed:
    """Bracket and importance weights of draws whose log p is known."""
    draws = proposed.log_own.shape[0]
    components = proposed.z.shape[0] - draws
    without = proposed.log_mixture[:draws]
    total = jnp.logaddexp(without + math.log(components), proposed.log_own)
    log_w = jnp.nan_to_num(log_p - proposed.log_mixture, nan=-jnp.inf, posinf=-jnp.inf)
    lower = log_p[:draws] - (total - math.log(components + 1.0))
    return Weighed(lower, log_p[:draws] - without, proposed.z[draws:], log_w[draws:])


@eqx.filter_jit
def weigh(mixture: ImplicitMixture, target: Target, key: Key) -> Weighed:
    """Bracket and importance weights, in one compiled program."""
    proposed = propose(mixture, key)
    return weighed(proposed, jax.vmap(target.log_density)(proposed.z))


def measure(mixture: ImplicitMixture, target: Target, key: Key) -> tuple[Bracket, Importance]:
    """Both bounds of the ELBO; log evidence and k̂ of the importance weights.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183; Sobolev & Vetrov (2019),
        https://arxiv.org/abs/1909.03354.
    """
    return summarise(weigh(mixture, target, key))


def summarise(weighed: Weighed) -> tuple[Bracket, Importance]:
    """Means, standard errors and k̂, on the host in float64."""
    lower, upper = (np.asarray(v, np.float64) for v in (weighed.lower, weighed.upper))
    root = math.sqrt(len(lower))
    rows = np.asarray(weighed.log_weights, np.float64)[None, :]
    bounds = Bracket(
        float(np.mean(lower)),
        float(np.mean(upper)),
        float(np.std(lower, ddof=1) / root),
        float(np.std(upper, ddof=1) / root),
        len(lower),
        rows.size,
    )
    mean = log_mean_weights(rows)
    found = Importance(
        float(mean.values[0]),
        float(mean.errors[0]),
        float(mean.effective[0]),
        float(pareto_k(rows)[0]),
        rows.size,
    )
    return bounds, found
