"""Progress of training and of evaluation: a bar on a terminal, else plain lines."""

import time
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress as Bar,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from avb.cli._console import errors
from avb.runs._methods import method_info

if TYPE_CHECKING:
    from avb.training import Progress

_ELBO_LABELS = {
    "exact": "ELBO",
    "lower bound": "lower bound of ELBO",
    "critic estimate": "ELBO (critic estimate)",
}


class TrainingProgress:
    """Shows training. Use as a context manager, and give :meth:`update` to the run.

    Args:
        method: The method's name, which says what its ELBO is.
        epochs: Epochs in all.
    """

    def __init__(self, method: str, epochs: int):
        self.label = _ELBO_LABELS[method_info(method).elbo]
        self.epochs = epochs
        self.numbers = "compiling"
        self.console = errors()
        self.first: tuple[float, int] | None = None
        self.bar = Bar(
            SpinnerColumn(),
            TextColumn("epoch {task.fields[epoch]:.1f}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        self.task = self.bar.add_task(
            "train", total=None, epoch=0.0, epochs=self.epochs, rate="", numbers=self.numbers
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update_prior(self, done: int, total: int) -> None:
        """Show how many draws are made for a flow that is fitted before training."""
        said = f"draws for the flow {done}/{total}" if done < total else "fitting the flow"
        self.bar.update(self.task, numbers=said)

    def update(self, progress: "Progress") -> None:
        """Show where training stands."""
        metrics = progress.metrics
        if metrics is not None:
            validation = metrics.get("validation_elbo", float("nan"))
            self.numbers = f"{self.label} {metrics['elbo']:.2f}, validation {validation:.2f} nats"
        elif self.first is None:
            self.numbers = ""
        rate = self._rate(progress.step)
        self.bar.update(
            self.task,
            completed=progress.step,
            total=progress.total_steps,
            epoch=progress.epoch,
            rate=rate,
            numbers=self.numbers,
        )
        if metrics is not None and not self.console.is_terminal:
            parts = [f"epoch {progress.epoch:.0f}/{self.epochs}", f"step {progress.step}"]
            parts += [part for part in (rate, self.numbers) if part]
            self.console.print(", ".join(parts), soft_wrap=True)

    def _rate(self, step: int) -> str:
        """Steps a second since the first update, which compiling has delayed."""
        now = time.monotonic()
        if self.first is None:
            self.first = (now, step)
        began, first_step = self.first
        return f"{(step - first_step) / (now - began):.0f} steps/s" if step > first_step else ""


class EvaluationProgress:
    """Shows evaluation on a terminal; elsewhere it is silent."""

    def __init__(self):
        console = errors()
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks = {}

    def __enter__(self) -> "EvaluationProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Show how many data are done."""
        if name not in self.tasks:
            self.tasks[name] = self.bar.add_task(name, total=total)
        self.bar.update(self.tasks[name], completed=done)
