"""The log density of a continuous mixture of Gaussians, from both sides."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from avb._types import Key
from avb.densities import DiagonalGaussian, GaussianMixture

COMPONENTS_AT_ONCE = 128


def log_mixture_bounds(
    draw_components: Callable[[Key, int], DiagonalGaussian],
    own: DiagonalGaussian,
    z: Float[Array, "s d"],
    key: Key,
    components: Int32[Array, ""] | int,
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """Log of the mixture over K fresh components q_k, without and with each draw's own, q₀.

    Memory does not grow with K: components are drawn, evaluated and summed a few at a time.
    K is a loop bound, so that another K needs no other compiled program; the components of
    a smaller K are the first ones of a larger.

    Args:
        draw_components: From a key and a number: that many components, stacked.
        own: The component that made each draw, stacked: ``loc`` of shape ``(s, d)``.
        z: The draws.
        key: PRNG key of the fresh components.
        components: K.

    Returns:
        ``log 1/K Σ_{k=1..K} q_k(z)``, whose expectation is at most log q's, and
        ``log 1/(K+1) Σ_{k=0..K} q_k(z)``, whose expectation is at least log q's, in nats.
    """
    at_once = COMPONENTS_AT_ONCE

    def add(chunk, total):
        fresh = GaussianMixture(draw_components(jax.random.fold_in(key, chunk), at_once))
        log_probs = jax.vmap(fresh.component_log_probs)(z)
        wanted = jnp.arange(at_once) < components - chunk * at_once
        kept = jnp.where(wanted, 0.0, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_probs + kept[None, :], axis=1))

    chunks = (jnp.asarray(components, jnp.int32) + at_once - 1) // at_once
    total = jax.lax.fori_loop(0, chunks, add, jnp.full(z.shape[0], -jnp.inf))
    log_own = jax.vmap(lambda density, z: density.log_prob(z))(own, z)
    k = jnp.asarray(components, jnp.float32)
    return total - jnp.log(k), jnp.logaddexp(total, log_own) - jnp.log1p(k)
