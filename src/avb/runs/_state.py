"""The state of a run before its first step, built or only described."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from avb._presets import PRESETS
from avb.runs._record import RunRecord
from avb.training import DeviceData, State, init
from avb.training._batches import Encoding


def encoding(record: RunRecord) -> Encoding:
    """How ``fit`` turns stored values into those that the likelihood takes."""
    return "binarise" if record.resolved.values == "binary" else "real"


def initial_state(record: RunRecord) -> State:
    """The state before the first step, from the seed alone."""
    return eqx.filter_jit(lambda key: _make(key, record))(_key(record))


def described_state(record: RunRecord) -> State:
    """The same with shapes and dtypes in place of arrays; nothing is computed.

    Raises:
        ConfigError: Parts that do not fit each other or the data.
        DataError: Less data than a batch.
    """
    return eqx.filter_eval_shape(lambda key: _make(key, record), _key(record))


def _key(record: RunRecord) -> jax.Array:
    return jax.random.key(record.config.seed)


def _make(key: jax.Array, record: RunRecord) -> State:
    init_key, train_key = jax.random.split(key)
    method = PRESETS[record.config.method](record.architecture, key=init_key)
    # init looks at the number of data only, so none need be on the device yet.
    shape = (record.data["sizes"]["train"], *record.resolved.data_shape)
    binarised = encoding(record) == "binarise"
    raw = jnp.zeros(shape, np.uint8 if binarised else np.float32)
    data = DeviceData(raw, encoding(record), record.config.fit.batch_size)  # pyright: ignore[reportArgumentType]
    return init(method, data, record.config.fit, key=train_key)
