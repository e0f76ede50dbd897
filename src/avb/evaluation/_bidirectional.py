"""Bidirectional Monte Carlo: log p(x) from both sides, on data that the model makes itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._errors import ConfigError
from avb._types import Datum, Key
from avb.evaluation._annealed import annealing_detail, check_annealing
from avb.evaluation._annealing import (
    ScheduleName,
    StartName,
    fixed_path,
    forward_chain,
    make_start,
    reverse_chain,
)
from avb.evaluation._batched import Progress, over_batches
from avb.evaluation._estimate import Estimate
from avb.evaluation._weights import log_mean_weights
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior

QUANTITY = "log p(x), simulated data"


@eqx.filter_jit
def _log_weights(parts, keys):
    model, posterior, temperatures, chains, leapfrog_steps, kind, schedule = parts

    def datum(key: Key):
        key_model, key_fit, key_pilot, key_forward, key_reverse = jax.random.split(key, 5)
        z, x = model.sample(key_model)
        start = make_start(model, posterior, x.astype(jnp.float32), kind, key_fit)
        path = fixed_path(start, schedule, temperatures, leapfrog_steps, key_pilot)
        exact = start.coordinates(z)

        def forward(key: Key):
            return forward_chain(start, path, leapfrog_steps, key)[0]

        def reverse(key: Key):
            return reverse_chain(start, exact, path, leapfrog_steps, key)

        return (
            jax.vmap(forward)(jax.random.split(key_forward, chains)),
            jax.vmap(reverse)(jax.random.split(key_reverse, chains)),
        )

    return jax.vmap(datum)(keys)


def simulated_data(model: LatentVariableModel, *, key: Key, num_data: int) -> np.ndarray:
    """The data that :func:`bidirectional_bounds` simulates with the same key.

    Args:
        model: p(x, z).
        key: PRNG key.
        num_data: Number of data.

    Returns:
        Data of shape ``(num_data, *data_shape)``, float32.
    """

    def datum(key: Key) -> Datum:
        return model.sample(jax.random.split(key, 5)[0])[1].astype(jnp.float32)

    return np.asarray(jax.vmap(datum)(jax.random.split(key, num_data)))


def bidirectional_bounds(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    *,
    key: Key,
    num_data: int = 100,
    temperatures: int = 500,
    chains: int = 4,
    leapfrog_steps: int = 2,
    start: StartName = "posterior",
    schedule: ScheduleName = "adaptive",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Estimate, Estimate]:
    """A lower and an upper bound of log p(x), on data simulated from the model.

    For simulated data the latent vector that made them is an exact draw of p(z|x), from which
    the chains of :func:`~avb.evaluation.annealed_bound` can run in reverse. Their weights have
    E[1/w] = 1/p(x), so the log of the mean of 1/w bounds log p(x) from above. Upper less
    lower bound is at least the sum of what either loses, the lower one's loss on data like
    these included.

    Args:
        model: p(x, z).
        posterior: q(z|x), only sampled, and only where chains start from it.
        key: PRNG key.
        num_data: Data to simulate.
        temperatures: T; the bounds close in as it grows, and memory stays the same.
        chains: Chains a datum in each direction, at least 2.
        leapfrog_steps: Gradients of each Hamiltonian transition; one a temperature.
        start: ``"posterior"`` or ``"prior"``, as for the lower bound alone.
        schedule: ``"adaptive"`` or ``"sigmoid"``.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower and the upper bound, on the same data, with the effective number of chains.
        The reverse chains of a datum begin at one exact draw, moved on a few transitions
        apart from each other; the upper bound's standard error takes them as independent.

    Raises:
        ConfigError: A setting out of its range.

    References:
        Grosse, Ghahramani & Adams (2015), https://arxiv.org/abs/1511.02543; Grosse, Ancha &
        Roy (2016), https://arxiv.org/abs/1606.02275.
    """
    check_annealing(temperatures, chains, leapfrog_steps, start, schedule)
    if num_data < 1:
        raise ConfigError(f"data to simulate: expected at least 1, got {num_data}")
    parts = (model, posterior, temperatures, chains, leapfrog_steps, start, schedule)

    def summary(_, keys: Key) -> tuple:
        forward, reverse = _log_weights(parts, keys)
        return log_mean_weights(np.asarray(forward)), log_mean_weights(-np.asarray(reverse))

    lower, upper = over_batches(
        summary, np.empty(num_data), key=key, batch_size=batch_size, progress=progress
    )
    detail = annealing_detail(temperatures, chains, start, schedule)
    return (
        Estimate(
            QUANTITY, "lower bound", "annealed importance sampling",
            lower.values, lower.errors, detail, lower.effective,
        ),
        Estimate(
            QUANTITY, "upper bound", "reverse annealing",
            -upper.values, upper.errors, detail, upper.effective,
        ),
    )  # fmt: skip
