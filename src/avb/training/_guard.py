"""Non-finite steps: named by the part at fault, counted, skipped."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, PyTree

from avb._types import Scalar
from avb.training._losses import Terms

PARTS = ("encoder", "decoder", "contrast", "critic")
FOLDS = 16


class Faults(eqx.Module):
    """Counts of skipped steps.

    Attributes:
        by_part: Skipped steps in all, by the part at fault, in the order of ``PARTS``.
        in_a_row: Skipped steps since the last good one.
        last: Index of the part at fault in the last skipped step.
    """

    by_part: Int32[Array, " 4"]
    in_a_row: Int32[Array, ""]
    last: Int32[Array, ""]

    @classmethod
    def none(cls) -> "Faults":
        """No step skipped."""
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros(len(PARTS), jnp.int32), zero, zero)

    def after(self, ok: Bool[Array, ""], part: Int32[Array, ""]) -> "Faults":
        """The counts after one more step."""
        one = jnp.where(ok, 0, 1).astype(jnp.int32)
        return Faults(
            by_part=self.by_part.at[part].add(one),
            in_a_row=(self.in_a_row + one) * one,
            last=jnp.where(ok, self.last, part),
        )


def squared_norm(tree: PyTree) -> Scalar:
    """Sum of squares over all leaves."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return sum((_sum_of_squares(leaf.ravel()) for leaf in leaves), jnp.zeros(()))


def _sum_of_squares(values: Float[Array, " n"]) -> Scalar:
    # XLA's CPU code vectorises sums of arrays, and not a sum to a scalar: folded first, the norm
    # of a gradient takes a sixth of the time.
    length = values.size // FOLDS
    parts = [values[i * length : (i + 1) * length] for i in range(FOLDS)]
    rest = values[FOLDS * length :]
    return jnp.sum(sum(part**2 for part in parts)) + jnp.sum(rest**2)


def part_at_fault(
    terms: Terms, squared_norms: Float[Array, " 4"]
) -> tuple[Bool[Array, ""], Int32[Array, ""]]:
    """Whether a step is finite, and if not the part at fault.

    A NaN made by one part spreads to the values computed after it, and backwards to the
    gradients of those before it. So values are looked at first, in the order in which they
    are computed; where all are finite, gradients, from the last part to the first.
    """
    values = jnp.stack([terms.latent, terms.log_likelihood, terms.log_contrast, terms.critic])
    bad_values = ~jnp.isfinite(values)
    bad_values = bad_values.at[3].set(bad_values[3] | ~jnp.isfinite(terms.critic_loss))
    bad_gradients = ~jnp.isfinite(squared_norms)
    first_value = jnp.argmax(bad_values)
    last_gradient = len(PARTS) - 1 - jnp.argmax(bad_gradients[::-1])
    part = jnp.where(jnp.any(bad_values), first_value, last_gradient).astype(jnp.int32)
    return ~(jnp.any(bad_values) | jnp.any(bad_gradients)), part
