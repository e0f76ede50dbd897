"""Annealed importance sampling: a lower bound of log p(x) that forgets where it starts."""

from typing import get_args

import equinox as eqx
import jax
import numpy as np

from avb._errors import ConfigError
from avb._types import Datum, Key
from avb.evaluation._annealing import (
    ScheduleName,
    StartName,
    fixed_path,
    forward_chain,
    make_start,
)
from avb.evaluation._batched import Progress, check_data, over_batches
from avb.evaluation._estimate import Estimate
from avb.evaluation._weights import log_mean_weights
from avb.models import LatentVariableModel
from avb.posteriors import AbstractPosterior


def check_annealing(
    temperatures: int, chains: int, leapfrog_steps: int, start: str, schedule: str
) -> None:
    """Check the settings of annealing.

    Raises:
        ConfigError: A setting out of its range.
    """
    for name, least, got in (
        ("temperatures", 2, temperatures),
        ("chains", 2, chains),
        ("leapfrog steps", 1, leapfrog_steps),
    ):
        if got < least:
            raise ConfigError(f"{name} of annealing: expected at least {least}, got {got}")
    for name, known, got in (
        ("start", get_args(StartName), start),
        ("schedule", get_args(ScheduleName), schedule),
    ):
        if got not in known:
            raise ConfigError(
                f"{name} of annealing: expected one of {', '.join(known)}, got {got!r}"
            )


def annealing_detail(temperatures: int, chains: int, start: str, schedule: str) -> str:
    """The settings in a few words."""
    return f"{temperatures} {schedule} temperatures, {chains} chains, from the {start}"


@eqx.filter_jit
def _log_weights(parts, x, keys):
    model, posterior, temperatures, chains, leapfrog_steps, kind, schedule = parts

    def datum(x: Datum, key: Key):
        key_fit, key_pilot, key_chains = jax.random.split(key, 3)
        start = make_start(model, posterior, x, kind, key_fit)
        path = fixed_path(start, schedule, temperatures, leapfrog_steps, key_pilot)

        def chain(key: Key):
            return forward_chain(start, path, leapfrog_steps, key)[0]

        return jax.vmap(chain)(jax.random.split(key_chains, chains))

    return jax.vmap(datum)(x, keys)


def annealed_bound(
    model: LatentVariableModel,
    posterior: AbstractPosterior,
    data: np.ndarray,
    *,
    key: Key,
    temperatures: int = 500,
    chains: int = 4,
    leapfrog_steps: int = 2,
    start: StartName = "posterior",
    schedule: ScheduleName = "adaptive",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Estimate:
    """E[log 1/C Σ_c w_c] ≤ log p(x), with weights w of annealed importance sampling.

    Chains run from a start that is known exactly to p(z|x) through distributions between them,
    by Hamiltonian Monte Carlo. Step sizes and adaptive temperatures come from other chains
    of the same datum and are then fixed, so that E[w] = p(x) exactly, however badly they mix
    and whatever the posterior is.

    Args:
        model: p(x, z).
        posterior: q(z|x), only sampled, and only where chains start from it.
        data: Shape ``(n, *data_shape)``.
        key: PRNG key.
        temperatures: T; the bound tightens as it grows, and memory stays the same.
        chains: C, at least 2.
        leapfrog_steps: Gradients of each Hamiltonian transition; one a temperature.
        start: ``"posterior"``, a Gaussian with the moments of posterior draws, widened, or
            ``"prior"``.
        schedule: ``"adaptive"``, where the log weight varies equally between neighbours,
            datum by datum, or ``"sigmoid"``.
        batch_size: Data at a time.
        progress: Called with the data done and those in all.

    Returns:
        The lower bound, with the effective number of chains.

    Raises:
        ConfigError: A setting out of its range.
        DataError: Data of another shape, or not finite.

    References:
        Neal (2001), https://arxiv.org/abs/physics/9803008; for decoders Wu, Burda,
        Salakhutdinov & Grosse (2017), https://arxiv.org/abs/1611.04273.
    """
    check_annealing(temperatures, chains, leapfrog_steps, start, schedule)
    data = check_data(data, model.data_shape)
    parts = (model, posterior, temperatures, chains, leapfrog_steps, start, schedule)
    values, errors, effective = over_batches(
        lambda x, keys: log_mean_weights(np.asarray(_log_weights(parts, x, keys))),
        data,
        key=key,
        batch_size=batch_size,
        progress=progress,
    )
    return Estimate(
        "log p(x)",
        "lower bound",
        "annealed importance sampling",
        values,
        errors,
        annealing_detail(temperatures, chains, start, schedule),
        effective,
    )
