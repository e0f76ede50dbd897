"""q(z|x) of all data sets, and its training on pairs simulated from the model."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from avb._types import Features, Key, Latent, Scalar
from avb.inference._target import Target
from avb.posteriors import AbstractTractablePosterior

CLIP_NORM = 10.0
WIDTH, DEPTH = 128, 3
# Draws for each one that importance weights choose.
POOL = 10


class Standard(eqx.Module):
    """Affine coordinates in which most of a sample is of the order of one.

    Attributes:
        loc: Medians.
        scale: Interquartile ranges, as sds of a Gaussian.
    """

    loc: Float[Array, " f"]
    scale: Float[Array, " f"]

    @classmethod
    def of(cls, sample: Float[np.ndarray, "n f"]) -> "Standard":
        """Those of a sample: by quantiles, as prior predictives often have no variance."""
        low, middle, high = np.quantile(sample, (0.25, 0.5, 0.75), axis=0)
        scale = (high - low) / 1.349
        scale = np.where(scale > 0, scale, np.maximum(np.std(sample, axis=0), 1e-6))
        return cls(*(jnp.asarray(a, jnp.float32) for a in (middle, scale)))

    def __call__(self, x: Float[Array, " f"]) -> Float[Array, " f"]:
        return (x - self.loc) / self.scale

    def back(self, x: Float[Array, " f"]) -> Float[Array, " f"]:
        """The inverse."""
        return self.loc + self.scale * x


class SummaryEncoder(eqx.Module):
    """Features of one data set: a fully connected network of its standardised numbers.

    Args:
        standard: Coordinates of the data.
        key: PRNG key.
    """

    standard: Standard
    layers: eqx.nn.MLP

    def __init__(self, standard: Standard, *, key: Key):
        self.standard = standard
        size = standard.loc.size
        # Twice: as they are where most data lie, and in logarithms where few do.
        self.layers = eqx.nn.MLP(
            2 * size,
            WIDTH,
            WIDTH,
            DEPTH,
            activation=jax.nn.silu,
            final_activation=jax.nn.silu,
            key=key,
        )

    def __call__(self, x: Float[Array, " f"]) -> Features:
        """Features of shape ``(width,)`` of one vector of data."""
        x = self.standard(lax.stop_gradient(x))
        return self.layers(jnp.concatenate([jnp.clip(x, -5.0, 5.0), jnp.arcsinh(x)]))


class Amortiser(eqx.Module):
    """q(z|x) of the unconstrained vector, in standardised coordinates of its own.

    Attributes:
        posterior: Over standardised z.
        standard: Coordinates of z.
    """

    posterior: AbstractTractablePosterior
    standard: Standard

    def log_prob(self, x: Float[Array, " f"], z: Latent) -> Scalar:
        """Log q(z|x), in nats."""
        volume = jnp.sum(jnp.log(self.standard.scale))
        return self.posterior.log_prob(x, self.standard(z)) - volume

    def sample(self, key: Key, x: Float[Array, " f"], count: int) -> Float[Array, "n d"]:
        """Draws of z."""
        return jax.vmap(self.standard.back)(self.posterior.sample(key, x, (count,)))

    def weigh(
        self, key: Key, x: Float[Array, " f"], target: Target, count: int
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """Draws of z, with log p(z, x) − log q(z|x); −∞ where it is not finite."""
        z = self.sample(key, x, count)
        log_q = jax.vmap(lambda z: self.log_prob(x, z))(z)
        weights = jax.vmap(target.log_density)(z) - log_q
        return z, jnp.nan_to_num(weights, nan=-jnp.inf, posinf=-jnp.inf)


def trained(amortiser: Amortiser) -> Amortiser:
    """A mask: ``True`` at the arrays that training changes; coordinates are constants."""

    def is_standard(node: Any) -> bool:
        return isinstance(node, Standard)

    def mask(node: Any) -> Any:
        if is_standard(node):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return jax.tree.map(mask, amortiser, is_leaf=is_standard)


class Pairs(eqx.Module):
    """Simulated latent vectors and data; those with numbers that are not finite do not count."""

    z: Float[Array, "n d"]
    x: Float[Array, "n f"]
    usable: Bool[Array, " n"]


class Simulations(eqx.Module):
    """Pairs simulated from a model; equal ones share what was compiled.

    Attributes:
        simulate: From a key to one z and its data.
        summary: From the data to one vector.
    """

    simulate: Callable = eqx.field(static=True)
    summary: Callable = eqx.field(static=True)

    def __call__(self, key: Key, count: int) -> Pairs:
        """So many pairs."""
        z, data = jax.vmap(self.simulate)(jax.random.split(key, count))
        x = jax.vmap(self.summary)(data)
        usable = jnp.isfinite(z).all(axis=1) & jnp.isfinite(x).all(axis=1)
        z, x = (jnp.where(usable[:, None], a, 0.0) for a in (z, x))
        return Pairs(z, x, usable)


def forward_loss(amortiser: Amortiser, pairs: Pairs) -> Scalar:
    """−E[log q(z|x)] over p(z, x): forward KL up to the entropy of p(z|x)."""
    logs = jax.vmap(amortiser.log_prob)(pairs.x, pairs.z)
    return -jnp.sum(jnp.where(pairs.usable, logs, 0.0)) / jnp.maximum(jnp.sum(pairs.usable), 1)


@eqx.filter_jit
def stretch(
    amortiser: Amortiser,
    state: optax.OptState,
    key: Key,
    rates: Float[Array, " n"],
    simulations: Simulations,
    batch_size: int,
) -> tuple[Amortiser, optax.OptState, Float[Array, " n"]]:
    """As many steps as there are rates, each on simulations of its own; with their losses."""
    adam, mask = optimiser(), trained(amortiser)
    free, fixed = eqx.partition(amortiser, mask)

    def step(carry, given):
        free, state = carry
        key, rate = given
        pairs = simulations(key, batch_size)
        loss, gradient = jax.value_and_grad(lambda f: forward_loss(eqx.combine(f, fixed), pairs))(
            free
        )
        updates, new_state = adam.update(gradient, state, free)
        moved = jax.tree.map(lambda p, u: p - rate * u, free, updates)
        ok = jnp.isfinite(optax.tree.norm(gradient)) & jnp.isfinite(loss)
        carry = jax.tree.map(lambda a, b: jnp.where(ok, a, b), (moved, new_state), (free, state))
        return carry, loss

    given = jax.random.split(key, len(rates)), rates
    (free, state), losses = lax.scan(step, (free, state), given)
    return eqx.combine(free, fixed), state, losses


def optimiser() -> optax.GradientTransformation:
    """Adam's direction; the rate is a stretch's own."""
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.scale_by_adam())
