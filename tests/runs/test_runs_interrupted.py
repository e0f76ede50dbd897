"""Runs that are killed at any moment go on bit for bit as if they never stopped."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest

from avb.runs._checkpoints import Checkpoints, to_arrays
from avb.runs._record import read_record
from avb.runs._state import initial_state

Start = Callable[..., Popen]

TRAIN = (
    *("train", "digits", "--method", "avb_adaptive", "--latent-dim", "2", "--width", "8"),
    *("--epochs", "120"),
)
OFTEN = ("--checkpoint-seconds", "0")

# Under these two seeds NumPyro flattens its distributions in different orders.
HASH_SEEDS = (0, 5, 0)


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(folder, writable=False)
    return to_arrays(checkpoints.restore(initial_state(read_record(folder))))


def finish(process: Popen) -> str:
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return err


def wait_for_step(folder: Path, process: Popen, *, above: int) -> None:
    """Until a checkpoint above a step is there, or the process has ended."""
    while process.poll() is None:
        names = [p.name for p in (folder / "checkpoints").glob("*") if p.name.isdecimal()]
        if any(int(name) > above for name in names):
            return
        time.sleep(0.01)


def last_step(folder: Path) -> int:
    return max(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdecimal())


def assert_same_run(folder: Path, unbroken: Path) -> None:
    got, expected = final_arrays(folder), final_arrays(unbroken)
    assert got.keys() == expected.keys()
    different = [name for name in got if not np.array_equal(got[name], expected[name])]
    assert different == []
    assert (folder / "metrics.jsonl").read_text() == (unbroken / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def unbroken(avb_process: Start, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    finish(avb_process(*TRAIN, "--run-dir", str(folder)))
    return folder


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(
    avb_process: Start, unbroken: Path, tmp_path: Path
):
    rng, folder = random.Random(0), tmp_path / "run"
    process = avb_process(*TRAIN, *OFTEN, "--run-dir", str(folder), hash_seed=HASH_SEEDS[0])
    wait_for_step(folder, process, above=-1)
    for hash_seed in HASH_SEEDS[1:]:
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.communicate()
        reached = last_step(folder)
        process = avb_process("resume", str(folder), *OFTEN, hash_seed=hash_seed)
        wait_for_step(folder, process, above=reached)
    finish(process)
    assert_same_run(folder, unbroken)


@pytest.mark.slow
def test_sigint_and_sigterm_save_and_say_how_to_go_on(
    avb_process: Start, unbroken: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    command = (*TRAIN, *OFTEN, "--run-dir", str(folder))
    for number in (signal.SIGINT, signal.SIGTERM):
        before = last_step(folder) if folder.exists() else 0
        process = avb_process(*command)
        wait_for_step(folder, process, above=before)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 1, err
        assert out == ""
        assert err.splitlines()[-1] == (
            f"stopped at step {last_step(folder)}, checkpoint saved; "
            f"go on with: avb resume {folder}"
        )
        command = ("resume", str(folder), *OFTEN)
    finish(avb_process("resume", str(folder)))
    assert_same_run(folder, unbroken)
