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
from avb.densities._points import even_points, shifted_normal
from avb.evaluation._weights import log_mean_weights, pareto_k
from avb.inference._framed import FramedDensity
from avb.inference._mixture import ImplicitMixture, log_mean
from avb.inference._target import Target

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
        components: K; 0 where the density is exact and both bounds are the ELBO.
    """

    lower: float
    upper: float
    lower_error: float
    upper_error: float
    draws: int
    components: int

    def __str__(self) -> str:
        how = f"K = {self.components}" if self.components else "exact density"
        return (
            f"[{self.lower:.4f} ± {self.lower_error:.4f}, {self.upper:.4f} ± "
            f"{self.upper_error:.4f}] nats ({self.draws} draws, {how})"
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
        upper: An upper bound of the log evidence where q covers the target, ½ log E_q[(p/q)²],
            which exceeds it by ½ log(1 + χ²). Like every number from draws of q it knows nothing
            of a mode without draws (Dieng et al. 2017, https://arxiv.org/abs/1611.00328, eq. 2).
        upper_error: The standard error of that, by the delta method.
        effective: Effective number of draws.
        pareto_k: k̂ of the weights; above 0.7 the numbers above cannot be trusted, unless
            nearly all draws are effective.
        draws: Number of weights.
    """

    log_evidence: float
    error: float
    upper: float
    upper_error: float
    effective: float
    pareto_k: float
    draws: int

    @classmethod
    def of(cls, log_weights: Float[np.ndarray, " s"]) -> "Importance":
        """All of it from log p − log q, of which −∞ is a weight of zero."""
        rows = np.asarray(log_weights, np.float64)[None, :]
        mean, square = log_mean_weights(rows), log_mean_weights(2.0 * rows)
        effective = float(mean.effective[0])
        return cls(
            float(mean.values[0]),
            float(mean.errors[0]),
            0.5 * float(square.values[0]) if effective > 0 else math.inf,
            0.5 * float(square.errors[0]),
            effective,
            float(pareto_k(rows)[0]),
            rows.size,
        )

    @property
    def trusted(self) -> bool:
        """Whether k̂ is at most 0.7, or the weights are equal but for a hundredth."""
        return self.pareto_k <= MAX_PARETO_K or self.effective >= EQUAL_SHARE * self.draws


class Weighed(NamedTuple):
    """Draws and their log ratios.

    Attributes:
        lower: log p − log of the mixture over the set of ε of which one made the draw.
        upper: log p − log of the mixture over another set.
        z: The draws.
        log_weights: ``lower``, −inf where it is not finite: importance weights, as the draws
            over one set are of a finite mixture, whose density is exact.
    """

    lower: Float[Array, " s"]
    upper: Float[Array, " s"]
    z: Float[Array, "s d"]
    log_weights: Float[Array, " s"]


class Proposed(NamedTuple):
    """Draws whose log p is still to be had: one from each component of two sets of ε.

    Attributes:
        z: All draws, shape ``(2K, d)``.
        log_within: Log (1/K) Σ_k q(z|ε_k) over the draw's own set.
        log_across: The same over the other set, which knows nothing of the draw.
    """

    z: Float[Array, "s d"]
    log_within: Float[Array, " s"]
    log_across: Float[Array, " s"]


@eqx.filter_jit
def propose(mixture: ImplicitMixture, key: Key) -> Proposed:
    """Draws for the bracket and for importance weights, over two sets of ``COMPONENTS`` ε."""
    key_sets, key_z = jax.random.split(key)
    points = jnp.asarray(even_points(COMPONENTS, mixture.noise_dim))
    first, second = (shifted_normal(points, key) for key in jax.random.split(key_sets))

    def one_of(noise, key):
        key_part, key_z = jax.random.split(key)
        part = jax.random.categorical(key_part, mixture.log_weights)
        return mixture.emit(mixture.components(noise), part, key_z)

    keys = jax.random.split(key_z, 2 * COMPONENTS)
    z = jax.vmap(one_of)(jnp.concatenate([first, second]), keys)
    by_first, by_second = (log_mean(mixture, z, noise, AT_ONCE) for noise in (first, second))
    own = jnp.arange(2 * COMPONENTS) < COMPONENTS
    within, across = jnp.where(own, by_first, by_second), jnp.where(own, by_second, by_first)
    return Proposed(z, within, across)


def _exact(density: FramedDensity, key: Key) -> Proposed:
    z = jax.vmap(density.sample)(jax.random.split(key, 2 * COMPONENTS))
    log_q = jax.vmap(density.log_prob)(z)
    return Proposed(z, log_q, log_q)


def weighed(proposed: Proposed, log_p: Float[Array, " s"]) -> Weighed:
    """Bracket and importance weights of draws whose log p is known."""
    lower, upper = log_p - proposed.log_within, log_p - proposed.log_across
    log_w = jnp.nan_to_num(lower, nan=-jnp.inf, posinf=-jnp.inf)
    return Weighed(lower, upper, proposed.z, log_w)


@eqx.filter_jit
def weigh(mixture: ImplicitMixture | FramedDensity, target: Target, key: Key) -> Weighed:
    """Bracket and importance weights, in one compiled program."""
    proposed = _exact(mixture, key) if isinstance(mixture, FramedDensity) else propose(mixture, key)
    return weighed(proposed, jax.vmap(target.log_density)(proposed.z))


def measure(
    mixture: ImplicitMixture | FramedDensity, target: Target, key: Key
) -> tuple[Bracket, Importance]:
    """Both bounds of the ELBO; log evidence and k̂ of the importance weights.

    The mixture over a set of ε has q as its mean over sets. As the ELBO is concave in the density,
    the ELBO of that mixture, by draws of its own, bounds q's from below; and as −log is convex,
    a set that is independent of the draw bounds it from above.

    References:
        Yin & Zhou (2018), https://arxiv.org/abs/1805.11183; Sobolev & Vetrov (2019),
        https://arxiv.org/abs/1909.03354.
    """
    bounds, weights = summarise(weigh(mixture, target, key))
    if isinstance(mixture, FramedDensity):
        bounds = dataclasses.replace(bounds, components=0)
    return bounds, weights


def summarise(weighed: Weighed) -> tuple[Bracket, Importance]:
    """Means, standard errors and k̂, on the host in float64."""
    lower, upper = (np.asarray(v, np.float64) for v in (weighed.lower, weighed.upper))
    root = math.sqrt(len(lower))
    bounds = Bracket(
        float(np.mean(lower)),
        float(np.mean(upper)),
        float(np.std(lower, ddof=1) / root),
        float(np.std(upper, ddof=1) / root),
        len(lower),
        COMPONENTS,
    )
    return bounds, Importance.of(np.asarray(weighed.log_weights))
