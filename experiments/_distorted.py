"""Distorted copies of the images of handwritten digits, about as likely as these.

Each copy is turned, sheared, stretched and bent at random (Simard, Steinkraus, Platt 2003), then
normalised as MNIST was: its longer side as long as before, its centre of mass where it was.
"""

import os
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from avb.data import Dataset

# Standard deviations, small enough that copies of images that a model has not seen are hardly less
# likely than these under it (``experiments.copies``).
TURN = 0.05
SHEAR = 0.05
STRETCH = 0.05
BEND = 0.25
# Of the grid of random displacements that are smoothed over the image.
KNOTS = 5
# The grey value from which a pixel counts where the sides of a digit are measured.
INK = 64


def write_with_copies(dataset: Dataset, copies: int, path: Path) -> None:
    """Keep the data set with distorted copies of its training images behind these, as ``.npz``."""
    text = f"{path}: {len(dataset.train)} images, {copies} distorted copies of each"
    print(text, flush=True)
    rng = np.random.default_rng(0)
    train = np.concatenate([dataset.train, *(distorted(dataset.train, rng) for _ in range(copies))])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, train=train, validation=dataset.validation, test=dataset.test)
    os.replace(partial, path)


def distorted(images: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """One copy of each image, of shape ``(n, side, side)`` and of eight bits as they are."""
    copies = np.empty_like(images)
    for copy, image in zip(copies, images, strict=True):
        copy[:] = _distort(image, rng, strength)
    return copies


def _distort(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    size = len(image)
    pixels = np.indices((size, size), dtype=float)
    middle = (size - 1) / 2
    matrix, bend = _linear(rng, strength), strength * _smooth(size, rng)
    matrix = matrix * _restored(image, matrix, bend, pixels - middle)
    back = np.einsum("ij,jyx->iyx", np.linalg.inv(matrix), pixels - middle) + middle
    moved = np.array([map_coordinates(b, back, order=1, mode="nearest") for b in bend])
    drawn = _sharpened(map_coordinates(image.astype(float), back + moved, order=1), image)
    shift = np.round(_centre(image, pixels) - _centre(drawn, pixels)).astype(int)
    return np.roll(drawn, shift, axis=(0, 1))


def _sharpened(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The grey values of the image, in the order of those that interpolation gave."""
    values = np.empty_like(image.ravel())
    values[np.argsort(drawn, axis=None, kind="stable")] = np.sort(image, axis=None)
    return np.where(drawn > 0, values.reshape(image.shape), 0)


def _linear(rng: np.random.Generator, strength: float) -> np.ndarray:
    turn, shear, stretch = strength * rng.normal(0, (TURN, SHEAR, STRETCH))
    stretch = np.exp(stretch)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return rotation @ np.array([[1.0, 0.0], [shear, 1.0]]) @ np.diag([stretch, 1.0 / stretch])


def _smooth(size: int, rng: np.random.Generator) -> np.ndarray:
    """A displacement of each pixel, of shape ``(2, size, size)``."""
    knots = np.linspace(0, size - 1, KNOTS)
    width = knots[1]
    weights = np.exp(-0.5 * ((np.arange(size)[:, None] - knots) / width) ** 2)
    weights /= np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
    return BEND * np.einsum("yi,aij,xj->ayx", weights, rng.normal(size=(2, KNOTS, KNOTS)), weights)


def _restored(
    image: np.ndarray, matrix: np.ndarray, bend: np.ndarray, offsets: np.ndarray
) -> float:
    """The factor that makes the longer side of what is drawn as long as it was."""
    ink = image >= INK
    if not ink.any():
        return 1.0
    before = offsets[:, ink]
    after = matrix @ (before - bend[:, ink])
    return float(np.ptp(before, axis=1).max() / np.ptp(after, axis=1).max())


def _centre(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.sum(pixels * image, axis=(1, 2)) / max(float(np.sum(image)), 1.0)
