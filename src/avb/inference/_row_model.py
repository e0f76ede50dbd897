"""Models with latent sites inside their subsampled plate: the joint log density, row by row."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.primitives import Messenger

from avb._errors import ConfigError
from avb._types import Latent, Scalar
from avb.inference._numpyro import Layout, Model
from avb.inference._rows import Subsample
from avb.inference._target import Sites

RowLatents = Float[Array, "b m"]


class _Unconstrained(Messenger):
    """Gives latent sites the values of unconstrained ones, and notes log |det Jacobian|."""

    def __init__(self, fn: Model, values: dict[str, Array]):
        self.values = values
        self.log_dets: dict[str, Array] = {}
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        name = msg["name"]
        if msg["type"] != "sample" or name not in self.values:
            return
        transform = biject_to(msg["fn"].support)
        value = transform(self.values[name])
        log_det = transform.log_abs_det_jacobian(self.values[name], value)
        batch = value.ndim - msg["fn"].event_dim
        self.log_dets[name] = jnp.sum(log_det, axis=tuple(range(batch, jnp.ndim(log_det))))
        msg["value"] = value


class RowModel:
    """log p(z, u, y) of one minibatch, apart for what no row and what each row adds.

    Args:
        model: Of the minibatch's indices, the mapped rows, and the model's arguments.
        layout: Its sites.
        plate: Its subsampled plate.
        join: Makes the model's arguments of the arrays in memory and a minibatch.
    """

    def __init__(
        self,
        model: Model,
        layout: Layout,
        plate: Subsample,
        join: Callable[[PyTree], tuple],
    ):
        zeros = {k: jnp.zeros(leaf.shape, leaf.dtype) for k, leaf in layout.unconstrained.items()}
        self._unravel = ravel_pytree(zeros)[1]
        self._global_dim = layout.dim
        self._model, self._plate, self._join = model, plate, join
        self._sites = layout.local
        self._sizes = [math.prod(site.shape) // plate.batch for site in layout.local]

    @property
    def dim(self) -> int:
        """m, latent dimensions of one row, unconstrained."""
        return sum(self._sizes)

    @property
    def weight(self) -> float:
        """N / b, rows of the plate for each one of a minibatch."""
        return self._plate.size / self._plate.batch

    def data(self, arguments: PyTree) -> tuple[Array, ...]:
        """The rows of all arrays that have some: those in memory, then the mapped ones.

        Raises:
            ConfigError: There are none.
        """
        arrays, batch = arguments
        tables = [array for array in arrays if array.shape[:1] == (self._plate.size,)]
        found = (*(array[batch.index] for array in tables), *map(jnp.asarray, batch.rows))
        if not found:
            raise ConfigError(
                f"latent sites inside the subsampled plate '{self._plate.name}': expected data of "
                f"{self._plate.size} rows among the model's arguments, for an encoder to see, got "
                "none; pass them to run instead of closing over them"
            )
        return found

    def _trace(self, arguments: PyTree, z: Latent, u: RowLatents) -> tuple[dict, _Unconstrained]:
        args, kwargs = self._join(arguments)
        values = self._unravel(z) | self._split(u)
        given = _Unconstrained(handlers.seed(self._model, jax.random.key(0)), values)
        return handlers.trace(given).get_trace(*args, **kwargs), given

    def _split(self, u: RowLatents) -> dict[str, Array]:
        parts, start = {}, 0
        for site, size in zip(self._sites, self._sizes, strict=True):
            own = u[:, start : start + size]
            rest = site.shape[: site.axis] + site.shape[site.axis + 1 :]
            parts[site.name] = jnp.moveaxis(own.reshape(-1, *rest), 0, site.axis)
            start += size
        return parts

    def log_joint(
        self, arguments: PyTree, z: Latent, u: RowLatents
    ) -> tuple[Scalar, Float[Array, " b"]]:
        """What the sites outside the plate and what each row adds to the log density, in nats.

        The weight of the rows, n / b, is left out.
        """
        trace, given = self._trace(arguments, z, u)
        outside, rows = jnp.zeros(()), jnp.zeros(self._plate.batch)
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            terms = _log_prob(site) + given.log_dets.get(name, 0.0)
            terms = terms if site["scale"] is None else site["scale"] * terms
            axis = _axis(site, self._plate)
            if axis is None:
                outside += jnp.sum(terms)
            else:
                # A term that is the same for all rows has an axis of one, or none.
                full = jnp.broadcast_to(terms, jnp.broadcast_shapes(terms.shape, axis))
                rows += jnp.sum(jnp.moveaxis(full, -len(axis), 0).reshape(len(rows), -1), axis=1)
        return outside, rows / self.weight

    def sites(self, arguments: PyTree, z: Latent, u: RowLatents) -> Sites:
        """The latent sites of the rows, constrained, the plate's axis first."""
        trace, _ = self._trace(arguments, z, u)
        found = {}
        for site in self._sites:
            value, fn = trace[site.name]["value"], trace[site.name]["fn"]
            found[site.name] = jnp.moveaxis(value, value.ndim - fn.event_dim + site.dim, 0)
        return found

    def check(self, arguments: PyTree) -> None:
        """See that the latents of a row act on that row alone.

        Raises:
            ConfigError: They do not: there is then no integral to be had row by row.
        """
        z, u = jnp.full(self._global_dim, 0.1), jnp.full((self._plate.batch, self.dim), 0.1)
        first = jnp.zeros_like(u).at[0].set(1.0)

        def slopes(arguments: PyTree) -> tuple[Scalar, Float[Array, " b"]]:
            return jax.jvp(lambda u: self.log_joint(arguments, z, u), (u,), (first,))[1]

        outside, rows = jax.jit(slopes)(arguments)
        names = ", ".join(repr(site.name) for site in self._sites)
        effects = {"other rows": _finite(rows[1:]), "sites outside the plate": _finite(outside)}
        for where, slope in effects.items():
            if jnp.any(slope != 0):
                raise ConfigError(
                    f"latent sites {names} of plate '{self._plate.name}': expected those of one "
                    f"row to act on that row alone, got an effect on {where}; leave "
                    "subsample_size out"
                )


def _finite(slope: Array) -> Array:
    # Where a density is not defined nothing is known: the search for modes tells.
    return jnp.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)


def _log_prob(site: dict) -> Array:
    if site["intermediates"]:
        return site["fn"].log_prob(site["value"], site["intermediates"])
    return site["fn"].log_prob(site["value"])


def _axis(site: dict, plate: Subsample) -> tuple[int, ...] | None:
    """A shape with the plate's axis first, to broadcast to; ``None`` for a site outside."""
    for frame in site["cond_indep_stack"]:
        if frame.name == plate.name:
            return (plate.batch, *[1] * (-frame.dim - 1))
    return None
