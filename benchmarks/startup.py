"""How long a user waits: ``avb --help``, and the first training step on digits.

python -m benchmarks.startup
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._timing import write_table

ROUNDS = 3


def seconds_of(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "avb.cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def seconds_to_first_report(run: Path) -> float:
    """From the start of the process to the report of the first epoch, nine steps."""
    began = time.perf_counter()
    arguments = ("train", "digits", "--epochs", "1", "--run-dir", str(run))
    process = subprocess.Popen(
        [sys.executable, "-m", "avb.cli", *arguments], stderr=subprocess.DEVNULL
    )
    while not (run / "metrics.jsonl").exists():
        if process.poll():
            raise SystemExit("avb train failed")
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    return seconds


def main() -> None:
    helps = [seconds_of("--help") for _ in range(ROUNDS)]
    with tempfile.TemporaryDirectory() as folder:
        first = [seconds_to_first_report(Path(folder) / str(n)) for n in range(ROUNDS)]
    lines = [
        "| | median s | range |",
        "| --- | ---: | ---: |",
    ]
    for name, times in (
        ("`avb --help`", helps),
        ("`avb train digits`, to the report of the first 9 steps", first),
    ):
        spread = f"{min(times):.1f} … {max(times):.1f}"
        lines.append(f"| {name} | {statistics.median(times):.2f} | {spread} |")
    write_table("startup", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
