"""How long a user waits: ``avb --help``, and the first training step on digits.

    python -m benchmarks.startup

Each is started once before it is timed, and may keep its compiled bytecode, as ``pip`` leaves it
on a user's machine: with PYTHONDONTWRITEBYTECODE set, and modules without it, Python compiles
1,500 files of the dependencies at every start.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks._timing import write_table

ROUNDS = 5
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}


def seconds_of(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "avb.cli", *arguments],
        check=True,
        capture_output=True,
        env=ENVIRONMENT,
    )
    return time.perf_counter() - began


FIRST_STEP = """
import os, sys
from avb.runs import RunConfig, train_run

def first(progress):
    print(progress.step, flush=True)
    os._exit(0)

train_run(RunConfig(data="digits"), sys.argv[1], on_progress=first)
"""


def seconds_to_first_step(run: Path, kept: dict[str, str] | None = None) -> float:
    """From the start of the process to the first progress of ``avb train``, one step."""
    began = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, str(run)],
        check=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT | (kept or {}),
    )
    if found.stdout != "1\n":
        raise SystemExit(f"expected one step, got {found.stdout!r}")
    return time.perf_counter() - began


def seconds_to_first_report(run: Path) -> float:
    """From the start of the process to the report of the first epoch, validation included."""
    began = time.perf_counter()
    arguments = ("train", "digits", "--epochs", "1", "--run-dir", str(run))
    process = subprocess.Popen(
        [sys.executable, "-m", "avb.cli", *arguments], stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while not (run / "metrics.jsonl").exists():
        if process.poll():
            raise SystemExit("avb train failed")
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    return seconds


def timed(start: Callable[[int], float]) -> list[float]:
    """The seconds of each round, after one that is not counted."""
    return [start(number) for number in range(ROUNDS + 1)][1:]


def main() -> None:
    helps = timed(lambda _: seconds_of("--help"))
    with tempfile.TemporaryDirectory() as folder:
        step = timed(lambda number: seconds_to_first_step(Path(folder) / f"step-{number}"))
        kept = {"JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "programs")}
        again = timed(lambda number: seconds_to_first_step(Path(folder) / f"again-{number}", kept))
        report = timed(lambda number: seconds_to_first_report(Path(folder) / str(number)))
    lines = [
        "| | median s | range |",
        "| --- | ---: | ---: |",
    ]
    for name, times in (
        ("`avb --help`", helps),
        ("`avb train digits`, to the end of the first step", step),
        ("the same, compiled programs kept in JAX_COMPILATION_CACHE_DIR", again),
        ("`avb train digits`, to the first report: 9 steps, validation ELBO", report),
    ):
        spread = f"{min(times):.1f} … {max(times):.1f}"
        lines.append(f"| {name} | {statistics.median(times):.2f} | {spread} |")
    write_table("startup", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
