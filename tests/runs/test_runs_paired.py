"""Differences between runs, datum by datum, from values made by hand."""

import math

import numpy as np
import pytest

from avb.runs._paired import Difference, differences

BEHIND = np.array([-3.0, -5.0, -4.0, -8.0], np.float32)
AHEAD = np.array([-2.0, -5.0, -3.0, -6.0], np.float32)


def test_what_all_data_share_does_not_blur_a_difference():
    behind, ahead = differences("any", [-5.0, -4.0], [BEHIND, AHEAD])
    # −1, 0, −1, −2: their standard deviation is √(2/3), though the values themselves vary by 2.
    assert behind is not None
    assert behind.nats_per_datum == -1.0
    assert behind.standard_error_over_data == pytest.approx(math.sqrt(2 / 3) / 2)
    assert ahead == Difference("any", 0.0, 0.0, 4)


def test_a_run_without_values_has_no_difference():
    best = Difference("any", 0.0, 0.0, 4)
    assert differences("any", [-5.0, -4.0], [None, AHEAD]) == [None, best]


def test_nothing_is_called_best_where_the_best_has_no_values():
    assert differences("any", [-5.0, -4.0], [BEHIND, None]) == [None, None]


def test_an_infinite_value_has_no_difference():
    values = np.array([-np.inf, -5.0, -4.0, -8.0], np.float32)
    behind, best = differences("any", [-np.inf, -4.0], [values, AHEAD])
    assert behind is None
    assert best == Difference("any", 0.0, 0.0, 4)


def test_one_datum_tells_nothing_of_others():
    behind, _ = differences("any", [-3.0, -2.0], [BEHIND[:1], AHEAD[:1]])
    assert behind is not None
    assert behind.standard_error_over_data == math.inf
