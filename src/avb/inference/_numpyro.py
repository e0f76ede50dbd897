"""A NumPyro model with its data, as a log density over one unconstrained vector."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_uniform
from numpyro.infer.util import (
    compute_log_probs,
    constrain_fn,
    helpful_support_errors,
    potential_energy,
)

from avb._errors import ConfigError
from avb._types import Latent, Scalar
from avb.inference._rows import Minibatch
from avb.inference._target import Functions, Sites, Target

Model = Callable[..., Any]
ARRAYS = (np.ndarray, jax.Array)
CONCRETE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An argument that is no array, compared by value where it can be."""

    value: Any

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:
            return id(self.value)


@dataclasses.dataclass(frozen=True)
class LocalSite:
    """A latent site inside the subsampled plate.

    Attributes:
        name: Of the site.
        shape: Of a minibatch's unconstrained values.
        axis: Of that shape, the plate's.
        dim: The plate's axis as NumPyro counts it, from the right of the batch axes.
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    dim: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """What one look at a model's trace tells.

    Attributes:
        unconstrained: Shape and type of each continuous latent site that all rows share,
            unconstrained.
        discrete: Names of the latent sites to sum out.
        plates: How many plates are nested, at most.
        by_row: Names of the deterministic sites that have a value for each row of a minibatch.
        local: The latent sites that have one, in order.
    """

    unconstrained: dict[str, jax.ShapeDtypeStruct]
    discrete: tuple[str, ...]
    plates: int
    by_row: tuple[str, ...] = ()
    local: tuple[LocalSite, ...] = ()

    @property
    def dim(self) -> int:
        """Number of unconstrained dimensions d."""
        return sum(math.prod(leaf.shape) for leaf in self.unconstrained.values())


def _plates(site: dict) -> set[str]:
    return {frame.name for frame in site.get("cond_indep_stack", [])}


def _check_site(site: dict, subsampled: set[str]) -> None:
    name, kind = site["name"], site["type"]
    if kind == "param":
        raise ConfigError(
            f"site '{name}': expected a sample site, got numpyro.param; give it a prior "
            "(dist.ImproperUniform for a flat one)"
        )
    if kind != "sample" or site["is_observed"]:
        return
    local = _plates(site) & subsampled
    if local and site["fn"].support.is_discrete:
        raise ConfigError(
            f"site '{name}': expected continuous latent sites inside the subsampled plate "
            f"'{local.pop()}', got a discrete one; sum it out by hand (dist.MixtureSameFamily), "
            "or leave subsample_size out"
        )
    if isinstance(site["fn"], dist.Delta):
        raise ConfigError(
            f"site '{name}': expected a distribution with a density, got Delta; use "
            "numpyro.deterministic instead"
        )
    if site["fn"].support.is_discrete and not site["fn"].has_enumerate_support:
        raise ConfigError(
            f"site '{name}': expected a continuous latent or a discrete one with finitely many "
            f"values, got {type(site['fn']).__name__}; sum it out by hand and add it by "
            "numpyro.factor"
        )


def _need_funsor(sites: tuple[str, ...]) -> None:
    try:
        import funsor  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            f"discrete latent sites {', '.join(map(repr, sites))}: NumPyro sums them out with "
            "funsor, which is not installed; run pip install funsor, or sum them out by hand "
            "(dist.MixtureSameFamily)"
        ) from None


def look(model: Model, args: tuple, kwargs: dict) -> Layout:
    """The sites of a model, without running it.

    Subsampled plates are those that a :class:`~avb.inference._rows.Minibatch` gives their rows.

    Raises:
        ConfigError: A site that cannot be inferred; the message says what to do instead.
    """
    found: dict[str, Any] = {}

    def unconstrained(key, args, kwargs):
        start = handlers.substitute(handlers.seed(model, key), substitute_fn=init_to_uniform())
        sites = handlers.trace(start).get_trace(*args, **kwargs)
        latent, local, discrete, by_row, dims = {}, [], [], [], [0]
        subsampled = set(model.seen) if isinstance(model, Minibatch) else set()
        for name, site in sites.items():
            _check_site(site, subsampled)
            if site["type"] == "deterministic" and _plates(site) & subsampled:
                by_row.append(name)
            dims += [-frame.dim for frame in site.get("cond_indep_stack", []) if frame.dim]
            if site["type"] != "sample" or site["is_observed"]:
                continue
            if site["fn"].support.is_discrete:
                discrete.append(name)
                continue
            try:
                with helpful_support_errors(site):
                    transform = biject_to(site["fn"].support)
                    value = transform.inv(site["value"])
            except (ValueError, NotImplementedError) as error:
                raise ConfigError(f"site '{name}': {error}") from error
            inside = [f for f in site["cond_indep_stack"] if f.name in subsampled]
            if inside:
                axis = value.ndim - transform.domain.event_dim + inside[0].dim
                local.append(LocalSite(name, value.shape, axis, inside[0].dim))
            else:
                latent[name] = value
        if local and discrete:
            raise ConfigError(
                f"discrete latent sites {', '.join(map(repr, discrete))}: expected none beside "
                f"latent sites inside a subsampled plate ('{local[0].name}'), got some; sum them "
                "out by hand (dist.MixtureSameFamily)"
            )
        found.update(
            discrete=tuple(discrete), plates=max(dims), by_row=tuple(by_row), local=tuple(local)
        )
        return latent

    shapes = jax.eval_shape(lambda key: unconstrained(key, args, kwargs), jax.random.key(0))
    if not shapes:
        raise ConfigError(
            "model: expected at least one continuous latent site"
            + (" outside the subsampled plate" if found["local"] else "")
            + ", got none"
        )
    return Layout(shapes, **found)


def numpyro_functions(model: Model, layout: Layout, join: Callable[[PyTree], tuple]) -> Functions:
    """The functions of a NumPyro model.

    Args:
        model: Any callable with NumPyro primitives, handlers included.
        layout: What :func:`look` found.
        join: Puts the traced and the fixed parts of the model's arguments back together.
    """
    zeros = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in layout.unconstrained.items()}
    unravel = ravel_pytree(zeros)[1]
    enum = bool(layout.discrete)
    if enum:
        _need_funsor(layout.discrete)

    def seeded() -> Model:
        # Any randomness left in a model, such as numpyro.prng_key(), is the same at each call.
        return handlers.seed(model, jax.random.key(0))

    def prepared() -> Model:
        if not enum:
            return seeded()
        from numpyro.contrib.funsor import config_enumerate, enum as enum_handler

        return enum_handler(config_enumerate(seeded()), -layout.plates - 1)

    def log_density(arguments: PyTree, z: Latent) -> Scalar:
        args, kwargs = join(arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            energy = potential_energy(prepared(), args, kwargs, unravel(z), enum=enum)
            return -jnp.asarray(energy)

    def constrain(arguments: PyTree, z: Latent) -> Sites:
        args, kwargs = join(arguments)
        sites = constrain_fn(seeded(), args, kwargs, unravel(z), return_deterministic=True)
        return {name: value for name, value in sites.items() if name not in layout.by_row}

    def log_terms(arguments: PyTree, z: Latent) -> Sites:
        args, kwargs = join(arguments)
        values = {k: v for k, v in constrain(arguments, z).items() if k in layout.unconstrained}
        terms, _ = compute_log_probs(seeded(), args, kwargs, values, sum_log_prob=True)
        return {name: jnp.asarray(term) for name, term in terms.items()}

    def log_likelihood(arguments: PyTree, z: Latent) -> Sites:
        args, kwargs = join(arguments)
        values = {k: v for k, v in constrain(arguments, z).items() if k in layout.unconstrained}
        given = handlers.substitute(seeded(), data=values)
        sites = handlers.trace(given).get_trace(*args, **kwargs)
        return {k: s["fn"].log_prob(s["value"]) for k, s in sites.items() if _is_data(s)}

    # Data are independent given all latent sites, of which those summed out are none.
    return Functions(log_density, constrain, log_terms, None if enum else log_likelihood)


def _is_data(site: dict) -> bool:
    """Whether a site is observed, and no ``numpyro.factor``."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    inner = site["fn"]
    while not isinstance(inner, dist.Unit) and hasattr(inner, "base_dist"):
        inner = inner.base_dist
    return not isinstance(inner, dist.Unit)


def numpyro_target(model: Model, args: tuple, kwargs: dict, cache: dict) -> Target:
    """The posterior of a model, given its arguments, as a target.

    Arrays among the arguments are traced, so that data of the same shape need no new
    compilation; a model that looks at their values gets them as they are.

    Args:
        model: Any callable with NumPyro primitives, handlers included.
        args: Its positional arguments, as for ``numpyro.infer.MCMC.run``.
        kwargs: Its keyword arguments.
        cache: Functions made before, by the shapes of the arguments; new ones are added.

    Raises:
        ConfigError: A site that cannot be inferred.
    """
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = [jnp.asarray(leaf) for leaf in leaves if isinstance(leaf, ARRAYS)]
    fixed = tuple(None if isinstance(leaf, ARRAYS) else Fixed(leaf) for leaf in leaves)
    signature = (structure, fixed, tuple((leaf.shape, leaf.dtype) for leaf in arrays))
    if signature in cache:
        functions, dim = cache[signature]
        return Target(arrays, functions, dim)

    def join(arrays: list[Array]) -> tuple:
        remaining = iter(arrays)
        return jax.tree.unflatten(
            structure, [next(remaining) if leaf is None else leaf.value for leaf in fixed]
        )

    layout = look(model, args, kwargs)
    functions = numpyro_functions(model, layout, join)
    try:
        point = jax.ShapeDtypeStruct((layout.dim,), jnp.result_type(float))
        jax.eval_shape(functions.log_density, arrays, point)
    except CONCRETE_NEEDED:
        functions = numpyro_functions(model, layout, lambda _: (args, kwargs))
        return Target([], functions, layout.dim)
    cache[signature] = functions, layout.dim
    return Target(arrays, functions, layout.dim)
