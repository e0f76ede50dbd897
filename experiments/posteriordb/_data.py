"""Data and reference draws, where a folder with them is there."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np

DEFAULT = Path(__file__).parents[2] / "../shared/data/posteriordb"


@dataclasses.dataclass(frozen=True)
class Reference:
    """One posterior of posteriordb.

    Attributes:
        name: Its name there.
        data: The Stan data, by name.
        parameters: Names of the scalar parameters, ``theta[1]``.
        draws: Reference draws, one column a parameter, shape ``(10000, p)``.
    """

    name: str
    data: dict
    parameters: tuple[str, ...]
    draws: np.ndarray

    def columns(self, sites: dict[str, np.ndarray]) -> np.ndarray:
        """Draws of sites, shape ``(n, ...)`` each, in the order of the parameters."""
        return np.stack([self._column(sites, name) for name in self.parameters], axis=-1)

    def _column(self, sites: dict[str, np.ndarray], name: str) -> np.ndarray:
        found = re.fullmatch(r"(\w+)\[(\d+)\]", name)
        if found is None:
            return np.asarray(sites[name])
        return np.asarray(sites[found[1]])[:, int(found[2]) - 1]


def data_folder() -> Path | None:
    """The folder, from ``AVB_POSTERIORDB`` or beside the repository; ``None`` if absent."""
    folder = Path(os.environ.get("AVB_POSTERIORDB", DEFAULT))
    return folder if folder.is_dir() else None


def load(folder: Path, name: str) -> Reference:
    """One posterior's data and reference draws."""
    one = folder / name
    data = json.loads((one / "data.json").read_text())
    parameters = tuple(json.loads((one / "info.json").read_text())["parameters"])
    with np.load(one / "draws.npz") as arrays:
        draws = np.stack([arrays[p] for p in parameters], axis=-1)
    return Reference(name, data, parameters, draws)
