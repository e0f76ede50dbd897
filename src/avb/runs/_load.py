"""A run as it stands on disk: its settings, its data, its trained method."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avb._errors import DataError, RunError
from avb.data import Dataset, load_dataset
from avb.runs._config import RunConfig
from avb.runs._prepare import HELD_OUT_SEEDS, Split, check_range, held_out_values
from avb.runs._record import RunRecord, read_record

if TYPE_CHECKING:
    from avb._method import Method


@dataclasses.dataclass(frozen=True)
class Run:
    """A run at its newest checkpoint.

    Attributes:
        path: The run folder.
        record: What ``config.json`` holds.
        step: Steps taken.
        method: The method with averaged parameters: what to evaluate and to use.
    """

    path: Path
    record: RunRecord
    step: int
    method: "Method"

    def dataset(self) -> Dataset:
        """The run's data, as they were loaded for training.

        Raises:
            DataError: They cannot be loaded.
            RunError: They have changed since.
        """
        return load_data(self.record.config, expected=self.record)

    def identity(self) -> dict[str, Any]:
        """What a file of numbers says of the run that they belong to."""
        return {
            "run": self.path.name,
            "method": self.record.config.method,
            "step": self.step,
            "data": self.record.data["name"],
        }

    def held_out(self, split: Split = "test") -> np.ndarray:
        """A split in the values that the likelihood takes, the same at every call."""
        array = getattr(self.dataset(), split)
        return held_out_values(array, self.record.resolved.values, seed=HELD_OUT_SEEDS[split])

    def values_of(self, array: np.ndarray, *, label: str) -> np.ndarray:
        """Other data of the same kind, in the values that the likelihood takes.

        Raises:
            DataError: Data of another shape, or out of the likelihood's range.
        """
        resolved = self.record.resolved
        check_shape(array, resolved.data_shape, label=label)
        check_range(array, resolved.likelihood, self.record.config.num_classes, label=label)
        return held_out_values(array, resolved.values, seed=HELD_OUT_SEEDS["test"])


def load_run(run_dir: str | os.PathLike) -> Run:
    """Load a run with the parameters of its newest checkpoint. It may be in training.

    Args:
        run_dir: The run folder.

    Returns:
        The run.

    Raises:
        RunError: No run, or a half-written or damaged one.
    """
    run_dir = Path(run_dir)
    record = read_record(run_dir)

    from avb.runs._checkpoints import Checkpoints
    from avb.runs._state import initial_state

    checkpoints = Checkpoints(run_dir, writable=False)
    try:
        state = checkpoints.restore(initial_state(record))
    finally:
        checkpoints.close()
    return Run(run_dir, record, int(state.step), state.averaged)


def load_data(config: RunConfig, *, expected: RunRecord | None = None) -> Dataset:
    """The data set of a configuration, unchanged if a record is given.

    Raises:
        DataError: It cannot be loaded.
        RunError: It is not the one that the run began with.
    """
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    dataset = load_dataset(config.data, data_dir=data_dir)
    if expected is not None and dataset.fingerprint != expected.data["fingerprint"]:
        raise RunError(
            f"{config.data} has changed since the run began: expected data with fingerprint "
            f"{expected.data['fingerprint'][:12]}, got {dataset.fingerprint[:12]}; restore the "
            "data, or train again into another folder"
        )
    return dataset


def check_shape(array: np.ndarray, data_shape: tuple[int, ...], *, label: str) -> None:
    """Refuse data of another shape than the model's."""
    if array.shape[1:] != data_shape:
        raise DataError(
            f"{label}: expected data of shape {data_shape} as in training, got {array.shape[1:]}"
        )
