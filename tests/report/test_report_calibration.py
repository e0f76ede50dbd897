"""Pictures of diagnostics from results made by hand."""

import numpy as np
import pytest

from avb import ConfigError, DataError
from avb.diagnostics import Calibration, uniformity_test
from avb.report import draw_rank_histograms, draw_two_samples


def calibration(quantities: int, *, simulations: int = 100, draws: int = 49) -> Calibration:
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, draws + 1, size=(simulations, quantities))
    ranks[:, 0] //= 2
    names = tuple(f"z[{index}]" for index in range(quantities))
    return Calibration(names, ranks, draws, uniformity_test(ranks, draws))


@pytest.mark.parametrize("quantities", [1, 3, 5, 14])
def test_rank_histograms_of_any_number_of_quantities(quantities, tmp_path):
    path = tmp_path / "ranks.png"
    draw_rank_histograms(calibration(quantities), path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("draws", [1, 7])
def test_rank_histograms_of_few_ranks(draws, tmp_path):
    path = tmp_path / "ranks.png"
    draw_rank_histograms(calibration(2, simulations=20, draws=draws), path, names=["a", "b"])
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_two_samples_of_any_dimension(dim, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "two.png"
    draws, reference = rng.normal(size=(50, dim)), rng.normal(size=(400, dim))
    draws[0] = 1e9
    draw_two_samples(draws, reference, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_messages(tmp_path):
    with pytest.raises(ConfigError) as error:
        draw_rank_histograms(calibration(2), tmp_path / "x.png", names=["a"])
    assert str(error.value) == "number of names: expected 2, got 1"
    with pytest.raises(DataError) as error:
        draw_two_samples(np.zeros(5), np.zeros((30, 1)), tmp_path / "x.png")
    assert str(error.value) == "draws: expected shape (n, d), got (5,)"
    assert not (tmp_path / "x.png").exists()
