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
