"""Agreement between parts, checked where they are put together."""

from typing import Any

from avb._errors import ConfigError


def expect_equal(what: str, expected: Any, got: Any) -> None:
    """Raise a ``ConfigError`` that names both values unless they agree."""
    if expected != got:
        raise ConfigError(f"{what}: expected {expected}, got {got}")


def expect_positive(what: str, got: float) -> None:
    """Raise a ``ConfigError`` unless the value is a positive number."""
    if not got > 0:
        raise ConfigError(f"{what}: expected a positive number, got {got}")


def expect_gradient_draws(got: int | None, importance_samples: int) -> None:
    """Raise a ``ConfigError`` unless some but not all of the weighted draws are asked for."""
    if got is not None and not 0 < got < importance_samples:
        raise ConfigError(
            "gradient_draws: expected at least 1 and fewer than importance_samples, "
            f"got {got} of {importance_samples}"
        )


def expect_hmc_transitions(got: int) -> None:
    """Raise a ``ConfigError`` for fewer transitions than none."""
    if got < 0:
        raise ConfigError(f"hmc_transitions: expected zero or more, got {got}")
