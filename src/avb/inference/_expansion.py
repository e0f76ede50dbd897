"""Quadratic expansions of a log density: what takes the noise out of its minibatches.

With T_B the expansion, at a centre m, of the estimate L_B from a minibatch B, and T that of the
log density L of all rows, T(z) + L_B(z) − T_B(z) has the mean L(z), whatever m is. The noise that
is left comes from third derivatives alone: over n rows and minibatches of b, at posterior
distances of 1/√n, it is of the order 1/√(n b), against √(n / b) of L_B.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from avb._types import Latent, Scalar

LogDensity = Callable[[PyTree, Latent], Scalar]


class Centres(eqx.Module):
    """Where expansions are made: at the modes.

    Attributes:
        loc: Shape ``(c, d)``.
        inverse: Whitening matrices, shape ``(c, d, d)``; they tell which centre is nearest.
    """

    loc: Float[Array, "c d"]
    inverse: Float[Array, "c d d"]

    def nearest(self, z: Latent) -> Array:
        """Index of the centre that is nearest in its own units."""
        white = jnp.einsum("cij,cj->ci", self.inverse, z[None, :] - self.loc)
        return jnp.argmin(jnp.sum(white**2, axis=-1))


class Expansion(eqx.Module):
    """Value, gradient and Hessian of a log density at each of several centres.

    Attributes:
        value: Shape ``(c,)``.
        slope: Shape ``(c, d)``.
        curvature: Shape ``(c, d, d)``.
    """

    value: Float[Array, " c"]
    slope: Float[Array, "c d"]
    curvature: Float[Array, "c d d"]

    @classmethod
    def zero(cls, count: int, dim: int) -> "Expansion":
        """That of zero."""
        return cls(jnp.zeros(count), jnp.zeros((count, dim)), jnp.zeros((count, dim, dim)))

    def above_value(self, centre: Array, offset: Latent) -> Scalar:
        """First and second order terms, at an offset from one centre."""
        return self.slope[centre] @ offset + 0.5 * offset @ self.curvature[centre] @ offset


def expand(log_density: Callable[[Latent], Scalar], centres: Centres) -> Expansion:
    """The expansion of a function at each centre."""

    def one(loc: Latent) -> Expansion:
        value, slope = jax.value_and_grad(log_density)(loc)
        return Expansion(value, slope, jax.hessian(log_density)(loc))

    return jax.vmap(one)(centres.loc)


class Corrected(eqx.Module):
    """A log density from few minibatches that agrees with that of all rows at the centres.

    Attributes:
        centres: Where it agrees.
        whole: Expansion of the log density of all rows, less a constant.
        part: Expansion of the mean of the minibatches' estimates.
        arrays: Arguments of the model that are in memory, as the source has them.
        batches: The minibatches, stacked.
    """

    centres: Centres
    whole: Expansion
    part: Expansion
    arrays: PyTree
    batches: PyTree

    @classmethod
    def raw(cls, arrays: PyTree, batches: PyTree, dim: int) -> "Corrected":
        """Uncorrected: the mean of the minibatches' own estimates."""
        centres = Centres(jnp.zeros((1, dim)), jnp.eye(dim)[None])
        zero = Expansion.zero(1, dim)
        return cls(centres, zero, zero, arrays, batches)

    def mean(self, estimate: LogDensity, z: Latent) -> Scalar:
        """Mean of the minibatches' estimates."""
        return jnp.mean(jax.vmap(lambda batch: estimate((self.arrays, batch), z))(self.batches))

    def log_density(self, estimate: LogDensity, z: Latent) -> Scalar:
        """The corrected log density."""
        centre = self.centres.nearest(z)
        offset = z - self.centres.loc[centre]
        # Values first: they are large, and nearly equal.
        rest = (self.mean(estimate, z) - self.part.value[centre]) + self.whole.value[centre]
        change = jax.tree.map(jnp.subtract, self.whole, self.part)
        return rest + change.above_value(centre, offset)

    def at(self, estimate: LogDensity, centres: Centres, whole: Expansion) -> "Corrected":
        """The same minibatches, corrected at other centres."""
        moved = dataclasses.replace(self, centres=centres, whole=whole)
        return dataclasses.replace(moved, part=expand(lambda z: self.mean(estimate, z), centres))
