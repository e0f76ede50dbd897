"""What a run is of, in words that are the same in every process: settings, key, data, model."""

import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avb._types import Key
from avb.inference._rows import release
from avb.inference._target import Sites, Target

ARRAYS = (np.ndarray, np.generic, jax.Array)
CHUNK_BYTES = 1 << 24
PROBES = 2


def arguments_in_words(args: tuple, kwargs: dict) -> dict[str, str]:
    """The arguments of a model by name: arrays by type, shape and content, all else as it prints.

    Of an object that prints its address, the type alone is told.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path((args, kwargs))
    return {f"argument {_name(path)}": _in_words(leaf) for path, leaf in leaves}


def _name(path: tuple) -> str:
    first = path[1]
    name = first.idx if isinstance(first, jax.tree_util.SequenceKey) else repr(first.key)
    return f"{name}{jax.tree_util.keystr(path[2:])}"


def _in_words(leaf: Any) -> str:
    if isinstance(leaf, ARRAYS):
        array = _raw(leaf)
        shape = "×".join(map(str, array.shape)) or "scalar"
        return f"{array.dtype} {shape} of SHA-256 {_digest(array)[:16]}"
    printed = repr(leaf)
    return type(leaf).__qualname__ if " at 0x" in printed else printed


def _raw(array: np.ndarray | np.generic | jax.Array) -> np.ndarray:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)  # pyright: ignore[reportArgumentType]
    return np.asanyarray(array)


def _digest(array: np.ndarray) -> str:
    """SHA-256 of the values, read in chunks whose memory is given back."""
    total = hashlib.sha256()
    rows = np.atleast_1d(array)
    at_once = max(1, CHUNK_BYTES // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), at_once):
        total.update(rows[start : start + at_once].tobytes())
        release(array)
    return total.hexdigest()


def key_in_words(key: Key) -> str:
    """The numbers of a key."""
    return " ".join(map(str, _raw(key).ravel().tolist()))


@eqx.filter_jit
def _values(target: Target, z: Float[Array, "n d"]) -> tuple[Array, Sites]:
    terms = jax.vmap(lambda z: target.functions.log_terms(target.arguments, z))(z)
    return jax.vmap(target.log_density)(z), terms


def model_in_words(target: Target) -> dict[str, str]:
    """Log densities, of each site too, at fixed points: of a model whose code has changed, others.

    To six digits, which tell models apart and do not depend on the order of sums.
    """
    z = np.random.default_rng(0).uniform(-1.0, 1.0, (PROBES, target.dim))
    total, terms = _values(target, jnp.asarray(z, jnp.result_type(float)))
    named = {"log density": total} | {f"log density of '{k}'": v for k, v in terms.items()}
    return {k: " ".join(f"{float(value):.6g}" for value in v) for k, v in named.items()}
