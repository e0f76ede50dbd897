"""Interleaved timing: every candidate in turn, several rounds, medians."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def interleaved(
    candidates: dict[str, Callable[[], None]], rounds: int, warmups: int = 2
) -> dict[str, list[float]]:
    """Seconds of each call, one list a candidate, after calls that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warmups + rounds):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            if number >= warmups:
                times[name].append(time.perf_counter() - began)
    return times


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median over rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def write_table(name: str, text: str) -> None:
    """Print a table and keep it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
