"""From a data set to what the likelihood takes: values, range checks, moments."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from avb._architecture import Likelihood
from avb._errors import DataError
from avb.data import Dataset, binarise_once
from avb.runs._config import RunConfig

Values = Literal["binary", "real", "integer"]
Split = Literal["train", "validation", "test"]

HELD_OUT_SEEDS: dict[str, int] = {"train": 0, "validation": 1, "test": 2}

_VALUES: dict[str, Values] = {
    "bernoulli": "binary",
    "normal": "real",
    "pixel-normal": "real",
    "categorical": "integer",
    "poisson": "integer",
    "negative-binomial": "integer",
}


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What the data decided where the configuration left it open.

    Attributes:
        data_shape: Shape of one datum.
        likelihood: The likelihood's name.
        input_shift: The training data's mean, as the encoder sees them.
        input_scale: Their standard deviation.
    """

    data_shape: tuple[int, ...]
    likelihood: Likelihood
    input_shift: float
    input_scale: float

    @property
    def values(self) -> Values:
        """What kind of numbers the likelihood takes: bounds compare only within a kind."""
        return _VALUES[self.likelihood]


def resolve(config: RunConfig, dataset: Dataset) -> Resolved:
    """Choose the likelihood, check that the data suit it, and measure them.

    Raises:
        DataError: Values that the likelihood cannot take.
    """
    likelihood = config.likelihood or default_likelihood(dataset)
    for split in get_args(Split):
        label = f"{dataset.name}, {split} split"
        check_range(getattr(dataset, split), likelihood, config.num_classes, label=label)
    values = _VALUES[likelihood]
    shift, scale = moments(training_values(dataset.train, values))
    return Resolved(dataset.data_shape, likelihood, shift, scale)


def default_likelihood(dataset: Dataset) -> Likelihood:
    """Bernoulli for pixels, Poisson for counts, else normal."""
    if dataset.train.dtype == np.uint8:
        return "bernoulli"
    splits = (dataset.train, dataset.validation, dataset.test)
    counts = dataset.train.dtype == np.int32 and min(split.min() for split in splits) >= 0
    return "poisson" if counts else "normal"


def check_range(array: np.ndarray, likelihood: Likelihood, num_classes: int, *, label: str) -> None:
    """Refuse values that the likelihood cannot take.

    Raises:
        DataError: With what was expected, what was found, and what to use instead.
    """
    found = f"{array.dtype} values from {array.min():g} to {array.max():g}"
    if likelihood == "bernoulli":
        is_unit = array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
        if array.dtype != np.uint8 and not is_unit:
            raise DataError(
                f"{label}: the bernoulli likelihood expects uint8 pixels or floats from 0 to 1, "
                f"got {found}; rescale them, or use the normal or poisson likelihood"
            )
        if array.dtype == np.uint8 and array.max() == 1:
            raise DataError(
                f"{label}: the bernoulli likelihood expects uint8 pixels from 0 to 255, got only "
                "0 and 1; save binary data as booleans, or multiply them by 255"
            )
    elif _VALUES[likelihood] == "integer":
        if array.dtype == np.float32 or array.min() < 0:
            raise DataError(
                f"{label}: the {likelihood} likelihood expects integers of at least 0, "
                f"got {found}; use the normal likelihood, or save counts as integers"
            )
        if likelihood == "categorical" and array.max() >= num_classes:
            raise DataError(
                f"{label}: the categorical likelihood expects integers from 0 to "
                f"{num_classes - 1}, got {found}; set num_classes to {array.max() + 1}"
            )


def training_values(array: np.ndarray, values: Values) -> np.ndarray:
    """What ``fit`` takes: ``uint8`` where it binarises or scales pixels itself."""
    if values == "binary" and array.dtype == np.float32:
        return np.rint(array * np.float32(255)).astype(np.uint8)
    return array.astype(np.int32) if values == "integer" else array


def held_out_values(array: np.ndarray, values: Values, *, seed: int) -> np.ndarray:
    """What evaluation takes: pixels binarised once for all, or scaled to [0, 1]."""
    array = training_values(array, values)
    if values == "binary":
        return binarise_once(array, seed=seed)
    return array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array


def moments(array: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over all values, pixels in [0, 1]; a scale of 1 if constant."""
    unit = 255.0 if array.dtype == np.uint8 else 1.0
    mean = float(np.mean(array, dtype=np.float64))
    # Datum by datum in blocks: all at once would take eight times the memory of the pixels.
    blocks = np.array_split(array, max(1, array.size // 2**20))
    squares = sum(float(np.sum((block - mean) ** 2, dtype=np.float64)) for block in blocks)
    deviation = (squares / array.size) ** 0.5
    return mean / unit, deviation / unit if deviation > 0 else 1.0
