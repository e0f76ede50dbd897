"""Models that see a random minibatch of their rows: what they index, and where the rows lie."""

import dataclasses
import mmap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpyro.primitives import _PYRO_STACK, Messenger, plate

from avb._errors import ConfigError

WAY_OUT = (
    "index it with the indices of the subsampled plate or give it to numpyro.subsample there; "
    "pass np.asarray(array) for one that is needed whole"
)


class WholeError(ConfigError):
    """A memory-mapped argument that is used other than by rows."""


class _NoAttributeError(WholeError, AttributeError):
    """The same, for who asks whether there is an attribute."""


class Rows:
    """Stands for a memory-mapped argument of a model: only the minibatch's rows can be had.

    Args:
        like: The array of all rows, of which shape and type alone are used.
        batch: The rows of the minibatch, shape ``(b, ...)``; ``None`` stands for any.
    """

    def __init__(self, like: np.ndarray, batch: Array | None = None):
        self.shape, self.ndim, self.dtype = like.shape, like.ndim, like.dtype
        self.size = like.size
        self._batch = batch
        self.index: Array | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, item: Any) -> Array:
        first, *rest = item if isinstance(item, tuple) else (item,)
        if self.index is None or first is not self.index:
            raise WholeError(self.misuse)
        # Arrays of indices in other places mean the same as they do for all rows.
        return self.rows()[(jnp.arange(first.shape[0]), *rest)]

    def rows(self) -> Array:
        """The rows of the minibatch."""
        if self._batch is not None:
            return self._batch
        assert self.index is not None
        dtype = jax.dtypes.canonicalize_dtype(self.dtype)
        return jnp.ones((self.index.shape[0], *self.shape[1:]), dtype)

    @property
    def misuse(self) -> str:
        """What to tell who uses it otherwise."""
        shape = "×".join(map(str, self.shape))
        return (
            f"memory-mapped argument of shape {shape}: expected to be used by rows, got a use of "
            f"all of it; {WAY_OUT}"
        )

    @property
    def __jax_array__(self) -> Any:
        # As a property, so that it is raised where JAX asks whether there is one.
        raise WholeError(self.misuse)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise WholeError(self.misuse)

    def __getattr__(self, name: str) -> Any:
        raise _NoAttributeError(self.misuse)


@dataclasses.dataclass(frozen=True)
class Subsample:
    """A plate of which each call of the model sees a part.

    Attributes:
        name: Of the plate.
        size: n, rows in all.
        batch: b, rows a call.
    """

    name: str
    size: int
    batch: int


class Minibatch(Messenger):
    """Gives a model the rows of one minibatch, and notes which plates are subsampled.

    Args:
        fn: The model.
        rows: The memory-mapped arguments among the model's.
        index: Indices of the rows, shape ``(b,)``; ``None`` stands for any.
    """

    def __init__(self, fn: Any, rows: list[Rows], index: Int[Array, " b"] | None = None):
        self.rows, self.index = rows, index
        self.seen: dict[str, Subsample] = {}
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        """Set the indices of the plate; hand over rows where NumPyro would take them."""
        if msg["type"] == "plate" and msg["args"][1] not in (None, msg["args"][0]):
            found = Subsample(msg["name"], *msg["args"])
            self.seen[found.name] = found
            if self.index is None:
                self.index = jnp.zeros(found.batch, jnp.int32)
            msg["value"] = self.index
            for rows in self.rows:
                rows.index = self.index
        if msg["type"] == "subsample" and isinstance(msg["value"], Rows):
            msg["value"] = self._taken(msg["value"], msg["kwargs"]["event_dim"])
            # The plate would look for n rows to take from.
            msg["kwargs"] = {}

    def _taken(self, rows: Rows, event_dim: int) -> Array:
        inside = [p for p in _PYRO_STACK if isinstance(p, plate) and p.name in self.seen]
        if not inside or inside[0].dim is None:
            raise WholeError(rows.misuse)
        got = inside[0].dim - event_dim
        if got != -rows.ndim:
            raise ConfigError(
                f"numpyro.subsample: expected event_dim = {rows.ndim + inside[0].dim}, so that the "
                f"plate's rows are the first axis of a memory-mapped array, got {event_dim}"
            )
        return rows.rows()


def release(array: np.ndarray) -> None:
    """Let the system take back the memory of pages read; they stay in its cache.

    Without it, a pass over a file would count as memory of this process.
    """
    if getattr(array, "mode", None) not in ("r", "r+"):
        return
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
