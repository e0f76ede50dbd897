"""Settings of an evaluation, and what they say when they are wrong."""

import pytest

from avb import ConfigError
from avb.evaluation import EvaluationConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 1}, "draws: expected at least 2, got 1"),
        ({"max_components": 0}, "max_components: expected at least 1, got 0"),
        ({"importance_samples": 1}, "importance_samples: expected at least 2, got 1"),
        ({"annealed_data": -1}, "annealed_data: expected at least 0, got -1"),
        (
            {"bracket_width": 0.0},
            "bracket_width: expected a positive number of nats, got 0.0",
        ),
        (
            {"bracket_width": float("nan")},
            "bracket_width: expected a positive number of nats, got nan",
        ),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        EvaluationConfig(**settings)
    assert str(caught.value) == message
