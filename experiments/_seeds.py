"""Many runs of one small method, trained side by side in one compiled program."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32, PyTree

from avb import FitConfig, Method
from avb._types import Key
from avb.training import DeviceData, Rates, State, init, step
from avb.training._state import copied

Tree = TypeVar("Tree")

CHUNKS = 10


def train_seeds(
    make: Callable[[Key], Method],
    data: np.ndarray,
    config: FitConfig,
    seeds: tuple[int, ...],
    report: Callable[[int, State], None] | None = None,
    *,
    traced: bool = True,
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
        traced: Whether ``make`` may run inside a compiled program, which FlowJAX's flows may not.
    """
    device_data = DeviceData(data, "real", len(data))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    start = start_runs if traced else _start_one_by_one
    states, _ = train_runs(start(make, keys, device_data, config), device_data, config, report)
    averaged = eqx.filter_vmap(lambda state: state.averaged)(states)
    return [one_of(averaged, index) for index in range(len(seeds))]


@eqx.filter_jit
def start_runs(
    make: Callable[..., Method], keys: Key, data: DeviceData, config: FitConfig, *rest: Array
) -> State:
    """The stacked states of runs that differ in keys, and in what else ``make`` takes.

    Args:
        make: The method from a key and one entry of each of ``rest``.
        keys: A key a run, shape ``(r,)``.
        data: The training data, the same for all.
        config: Settings, the same for all.
        rest: Arrays of ``r`` entries.
    """

    def one(key: Key, *rest: Array) -> State:
        return _start(lambda key: make(key, *rest), key, data, config)

    return eqx.filter_vmap(one)(keys, *rest)


def _start(make: Callable[[Key], Method], key: Key, data: DeviceData, config: FitConfig) -> State:
    key_method, key_run = jax.random.split(key)
    return init(make(key_method), data, config, key=key_run)


def _start_one_by_one(
    make: Callable[[Key], Method], keys: Key, data: DeviceData, config: FitConfig
) -> State:
    runs = [eqx.partition(_start(make, key, data, config), eqx.is_array) for key in keys]
    # Every run has its own functions inside a flow; what they keep is the same for all.
    first, static = runs[0]
    of_runs = zip(*(jax.tree.leaves(arrays) for arrays, _ in runs), strict=True)
    leaves = [jnp.stack(leaf) for leaf in of_runs]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(first), leaves), static)


def train_runs(
    states: State,
    data: DeviceData,
    config: FitConfig,
    report: Callable[[int, State], None] | None = None,
    *,
    rates: Rates | None = None,
) -> tuple[State, np.ndarray]:
    """Advance stacked states through all epochs.

    Args:
        states: As :func:`start_runs` gave them.
        data: The training data.
        config: Settings.
        report: See :func:`train_seeds`.
        rates: Peak rates of shape ``(r,)`` in place of those of the settings.

    Returns:
        The states, and which runs had too many non-finite steps in a row at some time.
    """
    total = config.epochs * data.steps_per_epoch
    gave_up = jnp.zeros(states.step.shape, bool)
    for start, stop in stretches(total):
        first = jnp.asarray(start, jnp.int32)
        states, gave_up = _advance(states, gave_up, data, config, rates, first, stop - start)
        if report is not None:
            report(stop, states)
        sums = jax.tree.map(jnp.zeros_like, states.sums)
        states = eqx.tree_at(lambda s: s.sums, states, copied(sums))
    return states, np.asarray(gave_up)


def stretches(total: int) -> list[tuple[int, int]]:
    """Steps from 0 to the total in stretches of one length, and what is left over."""
    length = max(1, total // CHUNKS)
    return [(start, min(start + length, total)) for start in range(0, total, length)]


@eqx.filter_jit
def _advance(
    states: State,
    gave_up: Bool[Array, " r"],
    data: DeviceData,
    config: FitConfig,
    rates: Rates | None,
    start: Int32[Array, ""],
    count: int,
) -> tuple[State, Bool[Array, " r"]]:
    arrays, static = eqx.partition(states, eqx.is_array)

    def one(arrays: PyTree, rates: Rates | None, number: Int32[Array, ""]) -> PyTree:
        # One number for all runs: with a number each, every branch on it would become
        # both of its sides, among them a permutation of the data at every step.
        state = eqx.combine(eqx.tree_at(lambda a: a.step, arrays, number), static)
        return eqx.filter(step(state, data, config, rates), eqx.is_array)

    def all_runs(carry, number: Int32[Array, ""]):
        arrays, gave_up = carry
        arrays = jax.vmap(one, in_axes=(0, 0, None))(arrays, rates, number)
        return (arrays, gave_up | (arrays.faults.in_a_row >= config.max_skipped)), None

    numbers = start + jnp.arange(count, dtype=jnp.int32)
    (arrays, gave_up), _ = lax.scan(all_runs, (arrays, gave_up), numbers)
    return eqx.combine(arrays, static), gave_up


def one_of(stacked: Tree, index: int) -> Tree:
    """One run's part of what is stacked."""
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, stacked)


def mean_terms(state: State) -> dict[str, Array]:
    """The terms of each seed, as means over the steps since the last report."""
    return {
        name: np.asarray(total) / np.asarray(state.sums.count)
        for name, total in vars(state.sums.terms).items()
        if name != "latent"
    }
