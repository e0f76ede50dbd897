"""Two sets of draws: their checks, a common scale for their coordinates, and random subsets."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from avb._check import expect_equal
from avb._errors import ConfigError, DataError
from avb._types import Key

FEWEST_DRAWS = 20
# Standard deviations above this multiple of the interquartile one are a matter of the tails.
WILD = 3.0
NORMAL_IQR = 1.3489795003921634
# Squares of coordinates beyond it, and differences of such squares, leave single precision.
FARTHEST = 1e8


class Scale(NamedTuple):
    """Centre and scale of each coordinate, both of shape ``(d,)``."""

    centre: np.ndarray
    scale: np.ndarray

    def apply(self, draws: np.ndarray) -> np.ndarray:
        """Draws in units of the scale, cut off at ±1e8 of them."""
        with np.errstate(over="ignore"):
            scaled = (draws - self.centre) / self.scale
        return np.clip(scaled, -FARTHEST, FARTHEST)


def check_draws(name: str, draws: ArrayLike) -> np.ndarray:
    """Draws as float64 of shape ``(n, d)``, after their shape and values were checked.

    Raises:
        DataError: Not a matrix, fewer than 20 rows, or non-finite values.
    """
    array = np.asarray(draws, np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name}: expected shape (n, d), got {array.shape}")
    if len(array) < FEWEST_DRAWS:
        raise DataError(f"{name}: expected at least {FEWEST_DRAWS} draws, got {len(array)}")
    bad = int(np.sum(~np.isfinite(array).all(axis=1)))
    if bad:
        raise DataError(
            f"{name}: expected finite numbers, got NaN or infinity in {bad} of {len(array)} draws; "
            "drop these draws, and count them against the sampler"
        )
    return array


def check_pair(draws: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Draws and reference draws as float64, of shapes ``(n, d)`` and ``(m, d)``.

    Raises:
        DataError: A shape that does not fit, non-finite values, or a reference with a
            coordinate that does not vary.
    """
    draws, reference = check_draws("draws", draws), check_draws("reference", reference)
    if draws.shape[1] != reference.shape[1]:
        raise DataError(
            f"dimensions of the draws: expected {reference.shape[1]} as in the reference, "
            f"got {draws.shape[1]}"
        )
    constant = np.flatnonzero(np.ptp(reference, axis=0) == 0)
    if constant.size:
        raise DataError(
            f"reference: expected every coordinate to vary, got a constant in coordinate "
            f"{constant[0]}; leave it out of both arrays"
        )
    return draws, reference


def scale_of(draws: np.ndarray) -> Scale:
    """Mean and standard deviation of each coordinate, or their robust stand-ins.

    Where the standard deviation exceeds three times the interquartile range over 1.349
    (equal to it for a Gaussian), the tails decide it: there the median and the
    interquartile scale are used. A coordinate with half its draws on one point has no
    interquartile scale and keeps its standard deviation.
    """
    low, median, high = np.quantile(draws, (0.25, 0.5, 0.75), axis=0)
    robust = (high - low) / NORMAL_IQR
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = draws.mean(axis=0), draws.std(axis=0)
    wild = (robust > 0) & ~(deviation <= WILD * robust)
    return Scale(np.where(wild, median, mean), np.where(wild, robust, deviation))


def pooled_and_scaled(draws: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Both sets one above the other, in units of the scale of both together.

    A scale of the pool does not know which draw came from where, so permuting the labels
    leaves it alone and permutation tests stay exact.
    """
    pooled = np.concatenate([draws, reference])
    return scale_of(pooled).apply(pooled)


def generator(key: Key) -> np.random.Generator:
    """A NumPy generator seeded by a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def subset(rng: np.random.Generator, draws: np.ndarray, size: int) -> np.ndarray:
    """At most ``size`` of the draws, at random and without repetition."""
    if len(draws) <= size:
        return draws
    return draws[rng.choice(len(draws), size, replace=False)]


def check_at_least(what: str, least: int, got: int) -> None:
    """Raise a ``ConfigError`` unless the value is large enough."""
    if got < least:
        raise ConfigError(f"{what}: expected at least {least}, got {got}")


def coordinate_names(names: Sequence[str] | None, dim: int) -> tuple[str, ...]:
    """The names given, or ``z[0]`` and so on.

    Raises:
        ConfigError: Another number of names than of coordinates.
    """
    if names is None:
        return tuple(f"z[{index}]" for index in range(dim))
    expect_equal("number of names", dim, len(names))
    return tuple(names)
