import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from avb.data import Dataset, load_dataset
from avb.data._splits import fixed_permutation


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_sizes_are_as_stated(digits: Dataset):
    assert digits.train.shape == (1197, 8, 8)
    assert digits.validation.shape == (300, 8, 8)
    assert digits.test.shape == (300, 8, 8)
    assert digits.provenance["sizes"] == {"train": 1197, "validation": 300, "test": 300}


def test_pixels_are_scaled_to_bytes(digits: Dataset):
    assert digits.train.dtype == np.uint8
    assert np.unique(digits.train).tolist() == [round(v * 255 / 16) for v in range(17)]


def test_splits_are_all_rows_once_each(digits: Dataset):
    pixels = load_digits(return_X_y=True)[0].reshape(-1, 8, 8)
    order = fixed_permutation(len(pixels))
    np.testing.assert_array_equal(np.sort(order), np.arange(1797))
    rows = np.concatenate([digits.train, digits.validation, digits.test])
    np.testing.assert_array_equal(rows, np.rint(pixels[order] * 255 / 16))


def test_permutation_is_the_same_everywhere():
    assert fixed_permutation(8).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_digits_are_the_same_every_time(digits: Dataset):
    assert load_dataset("digits").fingerprint == digits.fingerprint


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("avb.data._digits._FILE", "moved.csv.gz")
    assert load_dataset("digits").fingerprint == digits.fingerprint


def test_digits_do_not_import_scikit_learn():
    program = (
        "import sys, avb.data; avb.data.load_dataset('digits'); print('sklearn' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
