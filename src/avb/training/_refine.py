"""Posterior draws moved towards p(z|x) by Hamiltonian Monte Carlo, for the model to learn from."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from jax import lax
from jaxtyping import Array, Float

from avb._gradients import stop
from avb._method import Method
from avb._types import Data, Key, Scalar
from avb.evaluation._annealing import ACCEPTANCE, JITTER
from avb.nets._rows import over_rows
from avb.training._draws import drawn, repeated

# Of each transition. Four of these move draws further than two of ten.
LEAPFROG_STEPS = 5
FIRST_STEP_SIZE = 0.3
# By how much a transition's acceptance moves the logarithm of the step size.
ADAPTATION = 0.2

# BlackJAX annotates it for Python numbers; inside a compiled function they are arrays.
_kernel: Any = hmc.build_kernel()


class Chains(eqx.Module):
    """What the Hamiltonian chains of one step leave to those of the next.

    Attributes:
        log_step_size: Logarithm of the largest step, in units of the posterior's scales.
        acceptance: Mean acceptance of the last transitions.
    """

    log_step_size: Scalar
    acceptance: Scalar

    @classmethod
    def first(cls) -> "Chains":
        """Before any transition."""
        log_step_size, acceptance = jnp.log(FIRST_STEP_SIZE), jnp.asarray(ACCEPTANCE)
        # Not weakly typed, as the results of a step are not: it would be compiled twice.
        return cls(log_step_size.astype(jnp.float32), acceptance.astype(jnp.float32))


def refine(method: Method, x: Data, key: Key, chains: Chains) -> tuple[Float[Array, "r d"], Chains]:
    """Posterior draws after ``hmc_transitions`` transitions that leave p(z|x) unchanged.

    Chains are as short as they are because they begin where the posterior has put them.

    Args:
        method: All parts; constants, for every gradient.
        x: A batch of data, of shape ``(n, *data_shape)``.
        key: PRNG key.
        chains: Where the last call left the step size.

    Returns:
        ``posterior_draws`` draws of each datum, a row each, and what the next call needs.

    References:
        Hoffman (2017), https://proceedings.mlr.press/v70/hoffman17a.html, algorithm 1.
    """
    method = stop(method)
    key_draws, key_transitions = jax.random.split(key)
    features = over_rows(method.posterior.encoder)(x)
    z = drawn(method, features, key_draws)
    frames = jax.vmap(method.posterior.frame)(features)
    data, scales = repeated((x, jnp.exp(frames.log_scale)), method.posterior_draws)

    def log_density(x):
        return lambda z: method.model.log_joint(x, z)

    def move(carry, key):
        states, log_step_size = carry

        def of_chain(state, x, scale, key):
            # Without it, trajectories of nearly the same period all end where they began.
            key_jitter, key = jax.random.split(key)
            step_size = jnp.exp(log_step_size)
            step_size *= jax.random.uniform(key_jitter, (), minval=JITTER, maxval=1.0)
            return _kernel(key, state, log_density(x), step_size, scale**2, LEAPFROG_STEPS)

        states, info = jax.vmap(of_chain)(states, data, scales, jax.random.split(key, len(z)))
        acceptance = jnp.mean(jnp.nan_to_num(info.acceptance_rate))
        return (states, log_step_size + ADAPTATION * (acceptance - ACCEPTANCE)), acceptance

    states = jax.vmap(lambda z, x: hmc.init(z, log_density(x)))(z, data)
    keys = jax.random.split(key_transitions, method.hmc_transitions)
    (states, log_step_size), acceptances = lax.scan(move, (states, chains.log_step_size), keys)
    return jnp.asarray(states.position), Chains(log_step_size, jnp.mean(acceptances))
