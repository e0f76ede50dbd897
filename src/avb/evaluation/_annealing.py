"""Annealing of one datum: starts, paths of temperatures, HMC transitions, chains both ways.

With f_β(u) ∝ s(u) exp(β U(u)), where s is the start's density and U = log p(x, z) − log s,
f_0 is the start and f_1 the posterior. All takes place in the start's own coordinates u.
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from jaxtyping import Array, Float

from avb._types import Datum, Key, Latent, Scalar
from avb.densities import FullGaussian
from avb.densities._gaussian import standard_normal_log_prob
from avb.evaluation._proposals import GaussianProposal
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior

StartName = Literal["posterior", "prior"]
ScheduleName = Literal["sigmoid", "adaptive"]

# HMC moves farthest for its cost at 0.651 in many dimensions (Beskos et al. 2013); with short
# trajectories from poor starts 0.8 lost least in our trials.
ACCEPTANCE = 0.8
PILOT_CHAINS = 4
PILOT_RATE = 1.0
JITTER = 0.5
WARM = 20
FEWEST_PILOT = 20
# Transitions of each reverse chain before it is weighted.
APART = 10
SIGMOID_SHARE = 0.2
ZERO_WEIGHT = -1e30
# Half the width of the sigmoid's argument.
SIGMOID_REACH = 4.0

# BlackJAX annotates it for Python numbers; inside a compiled function they are arrays.
_kernel: Any = hmc.build_kernel()


class PosteriorStart(eqx.Module):
    """A Gaussian fitted to posterior draws, in its own whitened coordinates."""

    x: Datum
    model: LatentVariableModel
    gaussian: FullGaussian

    def latent(self, u: Latent) -> Latent:
        """The latent vector at u."""
        return self.gaussian.loc + self.gaussian.scale_tril @ u

    def coordinates(self, z: Latent) -> Latent:
        """The coordinates of z."""
        return self.gaussian.whiten(z)

    def sample(self, key: Key) -> Latent:
        """A draw, as u."""
        return jax.random.normal(key, self.gaussian.loc.shape)

    def log_prob(self, u: Latent) -> Scalar:
        """Log density of u, in nats."""
        return standard_normal_log_prob(u)

    def log_ratio(self, u: Latent) -> Scalar:
        """U: log p(x, z) less the start's log density, both over the same coordinates."""
        log_det = jnp.sum(jnp.log(jnp.diagonal(self.gaussian.scale_tril)))
        return self.model.log_joint(self.x, self.latent(u)) + log_det - self.log_prob(u)


class PriorStart(eqx.Module):
    """The model's prior, in the model's own coordinates."""

    x: Datum
    model: LatentVariableModel

    def latent(self, u: Latent) -> Latent:
        """The latent vector at u."""
        return u

    def coordinates(self, z: Latent) -> Latent:
        """The coordinates of z."""
        return z

    def sample(self, key: Key) -> Latent:
        """A draw, as u."""
        return jnp.asarray(self.model.fixed_prior.sample(key))

    def log_prob(self, u: Latent) -> Scalar:
        """Log density of u, in nats."""
        return self.model.log_prior(u)

    def log_ratio(self, u: Latent) -> Scalar:
        """U, here the log-likelihood."""
        return self.model.log_likelihood(self.x, u)


Start = PosteriorStart | PriorStart


class Path(NamedTuple):
    """A schedule that is fixed before the chains that are weighted.

    Attributes:
        temperatures: β_0 = 0 < … < β_T = 1, shape ``(t + 1,)``.
        step_sizes: Step size of the transition that leaves f_{β_t} unchanged, ``(t,)``.
    """

    temperatures: Float[Array, " t1"]
    step_sizes: Float[Array, " t"]


class Transition(NamedTuple):
    """One HMC transition.

    Attributes:
        u: Where the chain is afterwards.
        log_ratio: U where it was before.
        acceptance: Acceptance probability.
    """

    u: Latent
    log_ratio: Scalar
    acceptance: Scalar


def sigmoid_temperatures(count: int) -> Float[Array, " t1"]:
    """Temperatures dense near 0 and 1, shape ``(count + 1,)``.

    References:
        Grosse, Ghahramani & Adams (2015), https://arxiv.org/abs/1511.02543.
    """
    raw = jax.nn.sigmoid(SIGMOID_REACH * jnp.linspace(-1.0, 1.0, count + 1))
    return (raw - raw[0]) / (raw[-1] - raw[0])


def transition(
    start: Start, u: Latent, beta: Scalar, step_size: Scalar, leapfrog: int, key: Key
) -> Transition:
    """An HMC transition that satisfies detailed balance for f_β."""

    def log_density(u: Latent) -> Scalar:
        return start.log_prob(u) + beta * start.log_ratio(u)

    # The chain's U is needed anyway, and with its slope the first gradient comes for free.
    ratio, ratio_slope = jax.value_and_grad(start.log_ratio)(u)
    log_prob, slope = jax.value_and_grad(start.log_prob)(u)
    state = hmc.HMCState(u, log_prob + beta * ratio, slope + beta * ratio_slope)
    # Without it, trajectories of nearly the same period all end where they began.
    key_jitter, key = jax.random.split(key)
    step_size = step_size * jax.random.uniform(key_jitter, (), minval=JITTER, maxval=1.0)
    state, info = _kernel(key, state, log_density, step_size, jnp.ones_like(u), leapfrog)
    # Where p(x, z) under- or overflows it is as good as zero; but −∞ times a rise of zero is not.
    ratio = jnp.maximum(jnp.nan_to_num(ratio, nan=ZERO_WEIGHT), ZERO_WEIGHT)
    return Transition(state.position, ratio, info.acceptance_rate)


class Weight(NamedTuple):
    """A running sum with the rounding error that it made so far (Kahan)."""

    total: Scalar
    lost: Scalar

    def add(self, term: Scalar) -> "Weight":
        """The sum with one more term."""
        corrected = term - self.lost
        total = self.total + corrected
        lost = (total - self.total) - corrected
        return Weight(total, jnp.where(jnp.isfinite(total), lost, 0.0))


def no_weight() -> Weight:
    """An empty sum."""
    return Weight(jnp.zeros(()), jnp.zeros(()))


def forward_chain(start: Start, path: Path, leapfrog: int, key: Key) -> tuple[Scalar, Scalar]:
    """From the start to the posterior.

    Returns:
        The log weight w, with E[exp w] = p(x), and the mean acceptance.
    """
    key_start, key_steps = jax.random.split(key)
    count = path.step_sizes.shape[0]

    def step(carry, inputs):
        u, weight = carry
        beta, rise, step_size, key = inputs
        moved = transition(start, u, beta, step_size, leapfrog, key)
        return (moved.u, weight.add(rise * moved.log_ratio)), moved.acceptance

    inputs = (
        path.temperatures[1:],
        jnp.diff(path.temperatures),
        path.step_sizes,
        jax.random.split(key_steps, count),
    )
    first = (start.sample(key_start), no_weight())
    (_, weight), acceptance = jax.lax.scan(step, first, inputs)
    return weight.total, jnp.mean(acceptance)


def reverse_chain(start: Start, u: Latent, path: Path, leapfrog: int, key: Key) -> Scalar:
    """From an exact posterior sample back to the start: the same transitions, last one first.

    Returns:
        The log weight w of the same sum, with E[exp −w] = 1 / p(x).
    """
    key_apart, key_steps = jax.random.split(key)
    rises = jnp.diff(path.temperatures)

    def apart(u, key):
        # An exact sample stays one; chains that share it come to differ where they begin.
        return transition(start, u, jnp.ones(()), path.step_sizes[-1], leapfrog, key).u, None

    u, _ = jax.lax.scan(apart, u, jax.random.split(key_apart, APART))

    def step(carry, inputs):
        u, weight = carry
        beta, rise_above, step_size, key = inputs
        moved = transition(start, u, beta, step_size, leapfrog, key)
        return (moved.u, weight.add(rise_above * moved.log_ratio)), None

    # U enters where a chain arrives, with the rise of the temperature that it came from.
    inputs = (
        path.temperatures[1:],
        jnp.append(rises[1:], 0.0),
        path.step_sizes,
        jax.random.split(key_steps, rises.size),
    )
    (u, weight), _ = jax.lax.scan(step, (u, no_weight()), inputs, reverse=True)
    return weight.add(rises[0] * start.log_ratio(u)).total


class Pilot(NamedTuple):
    """What the chains that are not weighted tell of each temperature of a coarse schedule."""

    temperatures: Float[Array, " c1"]
    log_step_sizes: Float[Array, " c"]
    variances: Float[Array, " c"]


def run_pilot(start: Start, count: int, leapfrog: int, key: Key) -> Pilot:
    """Chains along a coarse schedule, their step size following the acceptance.

    Returns:
        The step size that each temperature ended with, and the variance of U over the chains
        where they arrived at it.
    """
    key_start, key_steps = jax.random.split(key)
    temperatures = sigmoid_temperatures(count)
    chains = jax.vmap(start.sample)(jax.random.split(key_start, PILOT_CHAINS))

    def step(carry, inputs):
        chains, log_step = carry
        beta, key = inputs

        def move(u, key):
            return transition(start, u, beta, jnp.exp(log_step), leapfrog, key)

        moved = jax.vmap(move)(chains, jax.random.split(key, PILOT_CHAINS))
        log_step = log_step + PILOT_RATE * (jnp.mean(moved.acceptance) - ACCEPTANCE)
        return (moved.u, log_step), (log_step, jnp.var(moved.log_ratio, ddof=1))

    # Time at the first temperature to find a step size, of whatever scale the start is.
    betas = jnp.concatenate([jnp.full(WARM, temperatures[1]), temperatures[1:]])
    first = (chains, jnp.asarray(-0.25 * jnp.log(float(chains.shape[1]))))
    inputs = (betas, jax.random.split(key_steps, betas.size))
    _, (log_steps, variances) = jax.lax.scan(step, first, inputs)
    return Pilot(temperatures, log_steps[WARM:], variances[WARM:])


def adaptive_temperatures(pilot: Pilot, count: int) -> Float[Array, " t1"]:
    """Temperatures between which the log weight varies equally.

    Its increment over dβ has standard deviation dβ · sd_β(U), so the temperatures are evenly
    spaced in ∫ sd_β(U) dβ. A share stays sigmoidal, against what few chains miss.

    References:
        Gelman & Meng (1998), Statistical Science 13, section 4.3.
    """
    known = jnp.where(jnp.isfinite(pilot.variances), pilot.variances, 0.0)
    lengths = jnp.diff(pilot.temperatures) * jnp.sqrt(known)
    sigmoid = jnp.linspace(0.0, 1.0, lengths.size + 1)
    whole = jnp.maximum(jnp.sum(lengths), 1e-12)
    travelled = jnp.concatenate([jnp.zeros(1), jnp.cumsum(lengths)]) / whole
    blend = (1.0 - SIGMOID_SHARE) * travelled + SIGMOID_SHARE * sigmoid
    inner = jnp.interp(jnp.linspace(0.0, 1.0, count + 1), blend, pilot.temperatures)
    return inner.at[0].set(0.0).at[-1].set(1.0)


def fixed_path(start: Start, schedule: ScheduleName, count: int, leapfrog: int, key: Key) -> Path:
    """The schedule of one datum, from pilot chains that are not weighted."""
    pilot = run_pilot(start, max(count // 5, FEWEST_PILOT), leapfrog, key)
    adaptive = schedule == "adaptive"
    temperatures = adaptive_temperatures(pilot, count) if adaptive else sigmoid_temperatures(count)
    log_steps = jnp.interp(temperatures[1:], pilot.temperatures[1:], pilot.log_step_sizes)
    return Path(temperatures, jnp.exp(log_steps))


def make_start(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    x: Datum,
    kind: StartName,
    key: Key,
) -> Start:
    """Where the chains of one datum begin."""
    if kind == "prior":
        return PriorStart(x, model)
    gaussian = GaussianProposal().condition(posterior, posterior.encoder(x), key)
    return PosteriorStart(x, model, gaussian)
