"""What is to be inferred: a log density on R^d, and the way back to the user's own terms."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from avb._errors import ConfigError
from avb._types import Key, Latent, Scalar

Sites = dict[str, Array]
START_RADIUS = 2.0


class Functions:
    """The functions of a target that all data sets of the same shapes share.

    Compared by identity, so that what was compiled for one data set serves the next.

    Args:
        log_density: ``(arguments, z)`` to log p, with z of shape ``(d,)``.
        constrain: ``(arguments, z)`` to the sites by name.
        log_terms: ``(arguments, z)`` to the log density of each site, to tell which is at fault.
        log_likelihood: ``(arguments, z)`` to that of each datum, by observed site; ``None`` where
            data have none by themselves.
    """

    def __init__(
        self,
        log_density: Callable[[PyTree, Latent], Scalar],
        constrain: Callable[[PyTree, Latent], Sites],
        log_terms: Callable[[PyTree, Latent], Sites],
        log_likelihood: Callable[[PyTree, Latent], Sites] | None = None,
    ):
        self.log_density = log_density
        self.constrain = constrain
        self.log_terms = log_terms
        self.log_likelihood = log_likelihood


class Target(eqx.Module):
    """An unnormalised log density over z in R^d.

    Args:
        arguments: What the functions need beside z: the data.
        functions: See :class:`Functions`.
        dim: Number of latent dimensions d.
    """

    arguments: PyTree
    functions: Functions = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def log_density(self, z: Latent) -> Scalar:
        """Log p(z), up to a constant, in nats, Jacobians of all transforms included."""
        return self.functions.log_density(self.arguments, z)

    def constrain(self, z: Latent) -> Sites:
        """The sites, in the model's own terms, of one unconstrained vector."""
        return self.functions.constrain(self.arguments, z)


@eqx.filter_jit
def _starts(target: Target, key: Key, count: int) -> tuple[Array, Array, Bool[Array, " n"]]:
    shape = (count, target.dim)
    z = jax.random.uniform(key, shape, minval=-START_RADIUS, maxval=START_RADIUS)
    values, slopes = jax.vmap(jax.value_and_grad(target.log_density))(z)
    return z, values, jnp.isfinite(values) & jnp.isfinite(slopes).all(axis=1)


def check_starts(target: Target, key: Key, count: int = 64) -> Float[Array, "n d"]:
    """Points where the log density and its gradient are finite, uniform in (−2, 2)^d.

    Raises:
        ConfigError: There is none; the message names the sites at fault.
    """
    z, values, finite = _starts(target, key, count)
    if not finite.any():
        raise ConfigError(_blame(target, z[0], float(values[0])))
    return z[finite]


def _blame(target: Target, z: Latent, value: float) -> str:
    terms = jax.jit(target.functions.log_terms)(target.arguments, z)
    guilty = [
        f"'{name}' ({float(term):g})" for name, term in terms.items() if not jnp.isfinite(term)
    ]
    what = f"log density at the start: expected a finite number, got {value:g}"
    if not guilty:
        return (
            f"{what} or a gradient that is not finite at {z.shape[0]} coordinates drawn in "
            "(-2, 2); check the model for divisions by zero and square roots of zero"
        )
    return (
        f"{what}; the sites that are not finite: {', '.join(guilty)}; check that the data have "
        "no NaN and lie in the support of their distribution"
    )


def density_functions(log_density: Callable[[Latent], Scalar]) -> Functions:
    """The functions of a user's own log density, whose one site is ``z``."""

    def of_z(arguments: Any, z: Latent) -> Scalar:
        args, kwargs = arguments
        return jnp.asarray(log_density(z, *args, **kwargs))

    return Functions(of_z, lambda _, z: {"z": z}, lambda arguments, z: {"z": of_z(arguments, z)})
