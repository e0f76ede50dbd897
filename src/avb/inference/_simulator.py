"""A NumPyro model as a simulator: latent vectors with the data that they make."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from numpyro import handlers
from numpyro.distributions import biject_to

from avb._errors import ConfigError, DataError
from avb._types import Key, Latent
from avb.inference._numpyro import Model, look, numpyro_functions
from avb.inference._target import Target

Data = dict[str, Array]


class Simulator:
    """Draws from p(z, x), and the target p(z, x) of given x.

    Args:
        model: A NumPyro model that samples all its data.
        observed: Names of the sites that are data.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        ConfigError: Sites that cannot be simulated or inferred; the message names them.
    """

    def __init__(self, model: Model, observed: tuple[str, ...], args: tuple, kwargs: dict):
        self.model, self.observed, self.args, self.kwargs = model, observed, args, kwargs
        if not observed:
            raise ConfigError("observed: expected the names of the sites that are data, got none")
        self.shapes = jax.eval_shape(self._simulated_data, jax.random.key(0))

        def of_data(data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            return handlers.condition(model, data=data)(*args, **kwargs)

        example = self._simulated_data(jax.random.key(0))
        self.layout = look(of_data, (example, *args), kwargs)
        self.functions = numpyro_functions(
            of_data, self.layout, lambda data: ((data, *args), kwargs)
        )

    @property
    def dim(self) -> int:
        """Number of latent dimensions d."""
        return self.layout.dim

    def _trace(self, key: Key) -> dict[str, Any]:
        try:
            return handlers.trace(handlers.seed(self.model, key)).get_trace(
                *self.args, **self.kwargs
            )
        except NotImplementedError as error:
            raise ConfigError(
                f"model: expected priors that can be sampled, got one that cannot ({error}); "
                "amortised inference needs proper priors"
            ) from error

    def _simulated_data(self, key: Key) -> Data:
        trace = self._trace(key)
        for name in self.observed:
            site = trace.get(name)
            if site is None or site["type"] != "sample":
                raise ConfigError(f"observed: expected names of sample sites, got '{name}'")
            if site["is_observed"]:
                raise ConfigError(
                    f"site '{name}': expected to be sampled, got a value; leave the data out of "
                    "the arguments, so that the model draws them"
                )
        return {name: trace[name]["value"] for name in self.observed}

    def simulate(self, key: Key) -> tuple[Latent, Data]:
        """One unconstrained latent vector from the prior, and data from the likelihood."""
        trace = self._trace(key)
        latent = {
            name: biject_to(trace[name]["fn"].support).inv(trace[name]["value"])
            for name in self.layout.unconstrained
        }
        data = {name: trace[name]["value"] for name in self.observed}
        return ravel_pytree(latent)[0], data

    def check(self, data: Mapping[str, Any]) -> Data:
        """The data as arrays.

        Raises:
            DataError: Other names or shapes than those simulated, or numbers that are not finite.
        """
        if set(data) != set(self.observed):
            raise DataError(
                f"data: expected {', '.join(self.observed)}, got {', '.join(data) or 'none'}"
            )
        checked = {}
        for name, like in self.shapes.items():
            array = np.asarray(data[name])
            if array.shape != like.shape:
                raise DataError(
                    f"data '{name}': expected shape {like.shape}, as simulated, got {array.shape}"
                )
            if not np.isfinite(array).all():
                raise DataError(f"data '{name}': expected finite numbers, got NaN or infinity")
            checked[name] = jnp.asarray(array, like.dtype)
        return checked

    def target(self, data: Data) -> Target:
        """The posterior given data, as a target."""
        return Target(data, self.functions, self.dim)


def flat(data: Data) -> Array:
    """All data as one vector."""
    return jnp.concatenate([jnp.ravel(data[name]).astype(jnp.float32) for name in sorted(data)])
