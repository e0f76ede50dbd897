import os
from collections.abc import Iterator

import jax
import pytest

from avb._types import Key

SEED = int(os.environ.get("AVB_TEST_SEED", "0"))


@pytest.fixture
def key() -> Key:
    """The root of a test's randomness; AVB_TEST_SEED runs the tests on other draws."""
    return jax.random.key(SEED)


@pytest.fixture(autouse=True)
def no_rank_promotion() -> Iterator[None]:
    """An array that meets another of lower rank by accident is an error, not a broadcast."""
    with jax.numpy_rank_promotion("raise"):
        yield
