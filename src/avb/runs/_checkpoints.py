"""Checkpoints: every array of the state under its name, written whole or not at all."""

import contextlib
import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from numpyro.distributions import Distribution

from avb._errors import RunError
from avb.runs._folder import CHECKPOINTS, write_error
from avb.training import State

KEPT = 3
# Room for the metadata of a checkpoint.
MARGIN = 2**20
DIGEST = "sha256"

# What Orbax and TensorStore were seen to raise for full disks and damaged files.
_FAILURES = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError)

Arrays = dict[str, np.ndarray]


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        folder: The run folder.
        writable: Whether this process holds the folder's lock and may write and delete.
    """

    def __init__(self, folder: Path, *, writable: bool):
        self.folder = folder
        self.writable = writable
        try:
            with _quiet():
                options = ocp.CheckpointManagerOptions(
                    max_to_keep=KEPT,
                    create=writable,
                    cleanup_tmp_directories=writable,
                    read_only=not writable,
                    enable_async_checkpointing=False,
                )
                self.manager = ocp.CheckpointManager(
                    (folder / CHECKPOINTS).absolute(), options=options
                )
        except OSError as error:
            raise write_error(folder / CHECKPOINTS, error.strerror or str(error)) from error

    def save(self, state: State) -> None:
        """Save a state, unless its step is saved already.

        Raises:
            RunError: It cannot be written, for example because the disk is full.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        arrays = to_arrays(state)
        arrays[DIGEST] = digest(arrays)
        self._expect_room(sum(array.nbytes for array in arrays.values()))
        try:
            with _quiet():
                self.manager.save(step, args=ocp.args.StandardSave(arrays))  # pyright: ignore
        except _FAILURES as error:
            raise write_error(self.folder / CHECKPOINTS / str(step), _first_line(error)) from error

    def restore(self, like: State) -> State:
        """The newest state that can be read; damaged newer ones are skipped with a warning.

        Args:
            like: A state of the same run, which gives the structure.

        Raises:
            RunError: There is no checkpoint, or none can be read.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        if not steps:
            raise RunError(
                f"{self.folder} holds no checkpoint: it was stopped before training began; "
                "delete the folder and train again"
            )
        damaged = []
        for step in steps:
            try:
                arrays = self._read(step, like)
            except _FAILURES as error:
                self._warn(step, error)
                damaged.append(step)
                continue
            # Training will come to these steps again, and Orbax overwrites nothing.
            for step in damaged if self.writable else ():
                self.manager.delete(step)
            return from_arrays(arrays, like)
        raise RunError(
            f"{self.folder}: none of the checkpoints {', '.join(map(str, reversed(steps)))} can "
            "be read; restore the folder from a copy, or delete it and train again"
        )

    def close(self) -> None:
        """Release what Orbax holds."""
        with _quiet():
            self.manager.close()

    def _expect_room(self, size: int) -> None:
        """Refuse to begin on a full disk, which TensorStore reports once for every array."""
        free = shutil.disk_usage(self.folder).free
        if free < size + MARGIN:
            raise write_error(
                self.folder / CHECKPOINTS,
                f"No space left on device: {size + MARGIN} bytes needed, {free} free",
            )

    def _read(self, step: int, like: State) -> Arrays:
        wanted = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype)
            for name, array in to_arrays(like).items()
        }
        wanted[DIGEST] = jax.ShapeDtypeStruct((32,), np.uint8)
        with _quiet():
            restored = self.manager.restore(step, args=ocp.args.StandardRestore(wanted))  # pyright: ignore
        arrays = dict(restored)
        if not np.array_equal(arrays.pop(DIGEST), digest(arrays)):
            raise ValueError("its values do not agree with their SHA-256")
        return arrays

    def _warn(self, step: int, error: Exception) -> None:
        warnings.warn(
            f"{self.folder}: the checkpoint at step {step} cannot be read "
            f"({_first_line(error)}); the one before it is used",
            stacklevel=5,
        )


def to_arrays(state: State) -> Arrays:
    """All arrays of a state by name; PRNG keys as their data."""
    return {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in _array_leaves(state).items()
    }


def from_arrays(arrays: Arrays, like: State) -> State:
    """The state whose arrays these are."""

    def fill(name: str, leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        # A copy, since jnp.asarray may share the memory that Orbax read into.
        values = jnp.array(arrays[name])
        return jax.random.wrap_key_data(values) if _is_key(leaf) else values

    filled = [fill(name, leaf) for name, leaf in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), filled)


def digest(arrays: Arrays) -> np.ndarray:
    """SHA-256 over names and values: TensorStore would let a flipped bit pass."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return np.frombuffer(total.digest(), np.uint8)


def named_leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves in JAX's order, under names that are the same in every process.

    NumPyro flattens a distribution in the order of a set of strings, which changes from
    process to process: a position would name its scale in one and its mean in another.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, Distribution)
    )
    for path, leaf in leaves:
        name = prefix + jax.tree_util.keystr(path)
        if isinstance(leaf, Distribution):
            for field in type(leaf).gather_pytree_data_fields():
                yield from named_leaves(leaf.__dict__.get(field), f"{name}.{field}")
        else:
            yield name, leaf


def _array_leaves(state: State) -> dict[str, Any]:
    return {name: leaf for name, leaf in named_leaves(state) if eqx.is_array(leaf)}


def _is_key(leaf: object) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # pyright: ignore


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax's log of its own doings from the user."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
