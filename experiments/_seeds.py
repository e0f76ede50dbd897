"""Several seeds of one small method, trained side by side in one compiled program."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from avb import FitConfig, Method
from avb._types import Key
from avb.training import DeviceData, State, init, step
from avb.training._state import copied

CHUNKS = 10


def train_seeds(
    make: Callable[[Key], Method],
    data: np.ndarray,
    config: FitConfig,
    seeds: tuple[int, ...],
    report: Callable[[int, State], None] | None = None,
) -> list[Method]:
    """Train the same method from each seed, and return the averaged methods.

    Each seed has parameters, draws and optimisers of its own; a seed's result does not
    depend on which others run beside it, but for the order of floating-point sums.

    Args:
        make: The method from a key.
        data: All data, which are one batch.
        config: Settings; an epoch is one step.
        seeds: The seeds.
        report: Called ten times with the steps done and the stacked states, whose sums are
            those of the steps since the call before.
    """
    device_data = DeviceData(data, "real", len(data))

    @eqx.filter_vmap
    def start(key: Key) -> State:
        key_method, key_run = jax.random.split(key)
        return init(make(key_method), device_data, config, key=key_run)

    states = start(jnp.stack([jax.random.key(seed) for seed in seeds]))

    @eqx.filter_jit
    def advance(states: State, count: int) -> State:
        arrays, static = eqx.partition(states, eqx.is_array)

        def one(arrays):
            advanced = step(eqx.combine(arrays, static), device_data, config)
            return eqx.filter(advanced, eqx.is_array)

        def many(arrays, _):
            return jax.vmap(one)(arrays), None

        return eqx.combine(lax.scan(many, arrays, None, length=count)[0], static)

    for chunk in range(CHUNKS):
        states = advance(states, config.epochs // CHUNKS)
        if report is not None:
            report((chunk + 1) * (config.epochs // CHUNKS), states)
        sums = jax.tree.map(jnp.zeros_like, states.sums)
        states = eqx.tree_at(lambda s: s.sums, states, copied(sums))
    averaged = eqx.filter_vmap(lambda state: state.averaged)(states)
    return [one_of(averaged, index) for index in range(len(seeds))]


def one_of(stacked: Method, index: int) -> Method:
    """One seed's method from the stacked ones."""
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, stacked)


def mean_terms(state: State) -> dict[str, Array]:
    """The terms of each seed, as means over the steps since the last report."""
    return {
        name: np.asarray(total) / np.asarray(state.sums.count)
        for name, total in vars(state.sums.terms).items()
        if name != "latent"
    }
