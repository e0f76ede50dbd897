"""The handwritten digits that come with scikit-learn."""

from importlib.metadata import distribution, version
from pathlib import Path

import numpy as np

from avb.data._dataset import Dataset
from avb.data._provenance import describe
from avb.data._splits import shuffled_split

_HELD_OUT = 300
_FILE = "sklearn/datasets/data/digits.csv.gz"


def load_digits() -> Dataset:
    """Loads scikit-learn's 1,797 digits of 8x8 pixels, scaled from 0..16 to 0..255."""
    images = _pixels().reshape(-1, 8, 8)
    splits = shuffled_split(np.rint(images * 255 / 16).astype(np.uint8), held_out=_HELD_OUT)
    provenance = describe(
        source=f"scikit-learn {version('scikit-learn')}, sklearn.datasets.load_digits",
        files=[],
        rule="1,197 / 300 / 300 by a fixed permutation (PCG64, seed 0)",
        splits=splits,
    )
    return Dataset("digits", *splits, provenance)


def _pixels() -> np.ndarray:
    # Importing scikit-learn takes more than a second, reading the file that it loads none.
    path = Path(str(distribution("scikit-learn").locate_file(_FILE)))
    if path.is_file():
        return np.loadtxt(path, delimiter=",")[:, :-1]
    from sklearn import datasets

    return np.asarray(datasets.load_digits(return_X_y=True)[0])
