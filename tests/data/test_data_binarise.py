import numpy as np
import pytest
from test_data_helpers import random_images

from avb._errors import DataError
from avb.data import binarise_once


def test_mean_is_the_intensity():
    values = np.array([1, 32, 128, 200, 254], np.uint8)
    n = 100_000
    bits = binarise_once(np.tile(values, (n, 1)), seed=0)
    probability = values / 255
    error = np.abs(bits.mean(axis=0) - probability)
    assert (error < 4.5 * np.sqrt(probability * (1 - probability) / n)).all()


def test_black_and_white_are_exact():
    pixels = np.repeat(np.array([[0], [255]], np.uint8), 200_000, axis=1)
    bits = binarise_once(pixels, seed=0)
    assert not bits[0].any()
    assert bits[1].all()


def test_bits_keep_shape_and_dtype():
    bits = binarise_once(random_images(7), seed=0)
    assert bits.shape == (7, 5, 4)
    assert bits.dtype == np.uint8
    assert set(np.unique(bits)) == {0, 1}


def test_draw_is_fixed_by_the_seed():
    pixels = random_images(50)
    np.testing.assert_array_equal(binarise_once(pixels, seed=3), binarise_once(pixels, seed=3))
    assert (binarise_once(pixels, seed=3) != binarise_once(pixels, seed=4)).any()


def test_batches_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch):
    pixels = random_images(50)
    whole = binarise_once(pixels, seed=3)
    monkeypatch.setattr("avb.data._binarise._BATCH", 7)
    np.testing.assert_array_equal(binarise_once(pixels, seed=3), whole)


def test_other_dtypes_are_refused():
    with pytest.raises(DataError) as caught:
        binarise_once(np.zeros((2, 2), np.float32), seed=0)
    assert str(caught.value) == "binarise_once: expected pixels of dtype uint8, got float32."
