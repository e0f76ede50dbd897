"""The state of a run before its first step."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._compiling import for_one_call
from avb._method import Method
from avb._presets import PRESETS
from avb._types import Key
from avb.models import FlowPrior
from avb.runs._record import RunRecord
from avb.training import DeviceData, State, init
from avb.training._batches import Encoding
from avb.training._state import copied, players


def encoding(record: RunRecord) -> Encoding:
    """How ``fit`` turns stored values into those that the likelihood takes."""
    return "binarise" if record.resolved.values == "binary" else "real"


def _build(record: RunRecord, key: Key) -> Method:
    """The preset's method, made by one compiled program where it can be.

    Shape by shape, the draws of initial weights take seconds more to compile.
    """
    preset = partial(_method, record)
    # A flow keeps arrays in functions, which must not outlive the program that made them.
    if record.config.method == "flow_vae" or record.config.has_flow_prior:
        return preset(key=key)
    # Equinox hands other arguments on to jax.jit; its types do not say so.
    options = for_one_call()
    build = eqx.filter_jit(lambda key: preset(key=key), compiler_options=options)  # pyright: ignore
    return build(key)


def _method(record: RunRecord, *, key: Key) -> Method:
    """The preset, with what the configuration changes of it."""
    method = PRESETS[record.config.method](record.architecture, key=key)
    if record.config.has_flow_prior:
        # For its shapes: the one that is fitted or kept takes its place, or that of a checkpoint.
        prior = FlowPrior.coupling(record.config.latent_dim, key=key)
        method = eqx.tree_at(lambda m: m.model.prior, method, prior)
    method = dataclasses.replace(method, hmc_transitions=record.config.hmc_transitions)
    samples, draws = record.config.importance_samples, record.config.gradient_draws
    if samples is None:
        return method
    return dataclasses.replace(method, importance_samples=samples, gradient_draws=draws)


def initial_state(record: RunRecord) -> State:
    """The state before the first step, from the seed alone.

    It is also what a checkpoint is restored into. It must be built for that, not only
    described: parts such as flows keep what they computed in functions, out of JAX's sight.

    Raises:
        ConfigError: Parts that do not fit each other or the data.
        DataError: Less data than a batch.
    """
    init_key, train_key = jax.random.split(jax.random.key(record.config.seed))
    method = _build(record, init_key)
    # init looks at the number of data only: zeros stand in, so that a run loads without them.
    shape = (record.data["sizes"]["train"], *record.resolved.data_shape)
    binarised = encoding(record) == "binarise"
    raw = jnp.zeros(shape, np.uint8 if binarised else np.float32)
    data = DeviceData(raw, encoding(record), record.config.fit.batch_size)  # pyright: ignore[reportArgumentType]
    return init(method, data, record.config.fit, key=train_key)


def started(state: State, method: Method) -> State:
    """The state before the first step, with the networks of a method of the same shapes."""
    # All arrays, not the trained ones alone: a flow's permutations are drawn, and never trained.
    leaves, structure = jax.tree.flatten(state.method)
    others = jax.tree.leaves(method)
    taken = [
        other if eqx.is_array(leaf) else leaf for leaf, other in zip(leaves, others, strict=True)
    ]
    same = jax.tree.unflatten(structure, taken)
    return copied(dataclasses.replace(state, method=same, average=players(same)))
