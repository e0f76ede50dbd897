"""Files of named arrays and a JSON document: written whole or not at all, without pickle."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from avb._errors import RunError

Arrays = Mapping[str, np.ndarray]
ABOUT = "about"
# What files that are cut off, damaged or no such files are seen to raise.
UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile)


def write_arrays(path: str | os.PathLike, arrays: Arrays, about: dict[str, Any]) -> None:
    """Replace a file whole or not at all, also when the machine stops.

    Raises:
        RunError: It cannot be written; what was there before is unharmed.
    """
    draft = Path(f"{os.fspath(path)}.tmp")
    document = np.frombuffer(json.dumps(about).encode(), np.uint8)
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays, **{ABOUT: document})  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise RunError(
            f"{os.fspath(path)} could not be written ({error.strerror or error}): make room or "
            "make the folder writable; what was there before is unharmed"
        ) from error


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and document of a file; raises one of ``UNREADABLE``."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != ABOUT}
        return arrays, json.loads(file[ABOUT].tobytes())


def numbered(tree: PyTree) -> dict[str, np.ndarray]:
    """All leaves of a tree of arrays, numbered."""
    return {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """The JAX arrays of a tree, numbered."""
    return numbered(eqx.filter(tree, eqx.is_array))


def from_arrays(arrays: Arrays, like: PyTree) -> PyTree:
    """The tree whose arrays :func:`to_arrays` numbered; of ``like``, the structure is used."""
    held, rest = eqx.partition(like, eqx.is_array)
    structure = jax.tree.structure(held)
    leaves = [jnp.asarray(arrays[f"leaf_{i}"]) for i in range(structure.num_leaves)]
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)
