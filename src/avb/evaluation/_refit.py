"""Training a method's own critic further while posterior and contrast stand still."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avb._method import Method
from avb._types import Key, Scalar
from avb.critics import AbstractCritic
from avb.training._contest import adversary_loss, contest
from avb.training._descend import descend
from avb.training._guard import squared_norm
from avb.training._losses import total_loss

RATE = 2e-3
BATCH_SIZE = 128


@eqx.filter_jit
def refit_critic(method: Method, data: Float[Array, "n ..."], key: Key, steps: int) -> Method:
    """The method with a critic trained on, against its own posterior and contrast as they are.

    What it gains over the critic of training is what that one lacked in steps alone: the
    game has stopped, but network, objective and contrast are the same.

    Args:
        method: All parts, with a critic.
        data: Shape ``(n, *data_shape)``; draws are new at every step.
        key: PRNG key.
        steps: Adam steps; the rate falls to zero along a cosine.
    """
    parameters, static = eqx.partition(method.critic, eqx.is_inexact_array)
    features = jax.vmap(method.posterior.encoder)(data)

    def with_critic(parameters) -> Method:
        critic: AbstractCritic = eqx.combine(parameters, static)  # pyright: ignore
        return eqx.tree_at(lambda m: m.critic, method, critic)

    def loss(parameters, key: Key) -> Scalar:
        key_index, key_z, key_contest = jax.random.split(key, 3)
        index = jax.random.randint(key_index, (BATCH_SIZE,), 0, len(data))
        z = jax.vmap(method.posterior.draw)(features[index], jax.random.split(key_z, BATCH_SIZE))
        met = contest(with_critic(parameters), data[index], features[index], z, key_contest)
        return adversary_loss(method, met)[1]

    return with_critic(descend(loss, parameters, key, steps=steps, rate=RATE))


@eqx.filter_jit
def gradient_norms(method: Method, data: Float[Array, "n ..."], key: Key) -> Float[Array, " 4"]:
    """Root mean square norms of the gradients of encoder, decoder, contrast and critic.

    As training sees them: batches of 128 data with new draws, eight of them.
    """

    def once(key: Key) -> Float[Array, " 4"]:
        key_index, key_loss = jax.random.split(key)
        index = jax.random.randint(key_index, (BATCH_SIZE,), 0, len(data))
        gradient = eqx.filter_grad(total_loss, has_aux=True)
        found, _ = gradient(method, data[index], key_loss, jnp.ones(()))
        parts = (found.posterior, found.model, found.contrast, found.critic)
        return jnp.stack([squared_norm(part) for part in parts])

    return jnp.sqrt(jnp.mean(jax.lax.map(once, jax.random.split(key, 8)), axis=0))
