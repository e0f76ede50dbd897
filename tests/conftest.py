import gc
import os
from collections.abc import Iterator

# Tests run tiny networks for a few steps: nearly all of their time is XLA compiling, which takes
# half as long without its optimisations, and half of that again with its older emitters of code.
# To be set before JAX is imported.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)

import jax
import pytest

from avb._types import Key
from seed import SEED

# An array that meets another of lower rank by accident is an error, not a broadcast. Set for
# the whole run, since it is part of what a compiled function is cached under.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key() -> Key:
    """The root of a test's randomness."""
    return jax.random.key(SEED)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Drop a module's compiled programs when it ends.

    Each keeps some memory maps, of which a Linux process may have 65,530: those of all tests
    together are more, and then XLA crashes.
    """
    yield
    jax.clear_caches()
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one of them begun last would keep one worker waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
