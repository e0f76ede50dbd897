import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_runs_helpers import TINY

from avb.runs import train_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A complete tiny run; tests that change anything take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train_run(TINY, folder, checkpoint_seconds=0)
    return folder


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="session")
def avb_process(tmp_path_factory) -> Callable[..., subprocess.Popen]:
    """Start ``avb`` in a process of its own. Compiled programs are shared between them."""
    cache = tmp_path_factory.mktemp("compiled")

    def start(*args: str, hash_seed: int = 0) -> subprocess.Popen:
        settings = {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            # XLA says of each program from the cache that its machine may differ; enough of
            # them fill a pipe that no one reads until the process ends.
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONHASHSEED": str(hash_seed),
            # Compiled once and run for a thousand steps, in contrast to those of other tests.
            "XLA_FLAGS": "",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "avb.cli", *args],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
