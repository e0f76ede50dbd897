"""Train into a run folder, and go on from it."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from avb._errors import RunError, TrainingError
from avb.data import Dataset
from avb.runs._config import RunConfig, differences
from avb.runs._folder import CONFIG, contents, writing
from avb.runs._load import load_data, load_run
from avb.runs._lock import locked
from avb.runs._metrics import append_row, drop_rows_after
from avb.runs._prepare import HELD_OUT_SEEDS, held_out_values, resolve, training_values
from avb.runs._record import RunRecord, expect_same_networks, read_record, write_record
from avb.runs._signals import StopRequest, stop_on_signal

if TYPE_CHECKING:
    from avb._method import Method
    from avb.runs._checkpoints import Checkpoints
    from avb.training import FitResult, FittedPrior, Progress, State

OnProgress = Callable[["Progress"], bool | None]
OnPrior = Callable[[int, int], None]

CHECKPOINT_SECONDS = 30.0


def train_run(
    config: RunConfig,
    run_dir: str | os.PathLike,
    *,
    on_progress: OnProgress | None = None,
    on_prior: OnPrior | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> "FitResult":
    """Train into a new folder.

    SIGINT and SIGTERM stop training after the present stretch of steps and save a
    checkpoint (the outcome is then ``Outcome.STOPPED``); a second signal ends at once.

    Args:
        config: What to train on which data.
        run_dir: The run folder; it must not exist, or be empty.
        on_progress: Called a few times a second, after files are written; training stops when it
            returns ``True``, as it does on a signal.
        on_prior: Called before training, where a flow is fitted first, with the draws made for it
            and those in all.
        checkpoint_seconds: Seconds between checkpoints.

    Returns:
        The result of :func:`avb.fit`.

    Raises:
        ConfigError: Settings that do not fit each other or the data.
        DataError: Data that cannot be used.
        RunError: The folder is taken, in use, or cannot be written; or the run to start from
            has other networks, or is none.
        TrainingError: Too many non-finite steps in a row.
    """
    run_dir, config = Path(run_dir), config.settled()
    _expect_free(run_dir, config)
    dataset = load_data(config)
    record = RunRecord.of(config, resolve(config, dataset), dataset)
    if config.start_from is not None:
        expect_same_networks(record, Path(config.start_from))

    # JAX and Orbax take seconds to import, which a refused folder should not cost.
    from avb.runs._checkpoints import Checkpoints
    from avb.runs._state import initial_state, started

    state = initial_state(record)
    if config.start_from is not None:
        run = load_run(config.start_from)
        record = dataclasses.replace(record, start_step=run.step)
        method = run.method
        if config.prior == "flow":
            fitted = _fit_prior(method, record, dataset, on_prior)
            method, gain = fitted.method, (fitted.gain, fitted.standard_error)
            record = dataclasses.replace(record, prior_gain=gain)
        state = started(state, method)
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with locked(run_dir), stop_on_signal() as stop:
        _expect_free(run_dir, config)
        write_record(run_dir, record)
        checkpoints = Checkpoints(run_dir, writable=True)
        checkpoints.save(state)
        files = _Files(run_dir, checkpoints, checkpoint_seconds)
        return _fit(record, dataset, state, files, stop, on_progress)


def resume_run(
    run_dir: str | os.PathLike,
    *,
    on_progress: OnProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> "FitResult":
    """Go on with a run, bit for bit as if it had never stopped.

    Args:
        run_dir: The run folder.
        on_progress: Called a few times a second, after files are written; training stops when it
            returns ``True``, as it does on a signal.
        checkpoint_seconds: Seconds between checkpoints.

    Returns:
        The result of :func:`avb.fit`; its history begins at the checkpoint.

    Raises:
        DataError: Data that cannot be used.
        RunError: No run, a damaged one, one in use, or data that have changed.
        TrainingError: Too many non-finite steps in a row.
    """
    run_dir = Path(run_dir)
    record = read_record(run_dir)
    with locked(run_dir), stop_on_signal() as stop:
        dataset = load_data(record.config, expected=record)

        from avb.runs._checkpoints import Checkpoints
        from avb.runs._state import initial_state

        checkpoints = Checkpoints(run_dir, writable=True)
        state = checkpoints.restore(initial_state(record))
        drop_rows_after(run_dir, int(state.step))
        files = _Files(run_dir, checkpoints, checkpoint_seconds)
        return _fit(record, dataset, state, files, stop, on_progress)


def _fit_prior(
    method: "Method", record: RunRecord, dataset: Dataset, on_prior: OnPrior | None
) -> "FittedPrior":
    import jax

    from avb.runs._state import encoding
    from avb.training import fit_prior

    data = training_values(dataset.train, record.resolved.values)
    key = jax.random.key(record.config.seed)
    return fit_prior(method, data, key=key, encoding=encoding(record), progress=on_prior)


def _expect_free(run_dir: Path, config: RunConfig) -> None:
    """Refuse a folder that holds anything."""
    found = contents(run_dir)
    if not found:
        return
    if CONFIG not in found:
        raise RunError(
            f"{run_dir} holds other files ({', '.join(found[:3])}{', …' if found[3:] else ''}): "
            "expected an empty or a new folder; choose another run folder"
        )
    differing = differences(read_record(run_dir).config, config)
    if differing:
        raise RunError(
            f"{run_dir} holds a run with another configuration ({'; '.join(differing)}): choose "
            "another run folder"
        )
    raise RunError(
        f"{run_dir} holds a run with this configuration already: go on with it by "
        f"'avb resume {run_dir}', or choose another run folder"
    )


class _Files:
    """What training writes as it goes."""

    def __init__(self, run_dir: Path, checkpoints: "Checkpoints", seconds: float):
        self.run_dir = run_dir
        self.checkpoints = checkpoints
        self.seconds = seconds
        self.saved = time.monotonic()

    def update(self, progress: "Progress") -> None:
        """Write what is due."""
        if progress.metrics is not None:
            append_row(self.run_dir, progress.metrics)
        if time.monotonic() - self.saved >= self.seconds:
            self.save(progress.state)

    def save(self, state: "State") -> None:
        self.checkpoints.save(state)
        self.saved = time.monotonic()


def _fit(
    record: RunRecord,
    dataset: Dataset,
    state: "State",
    files: _Files,
    stop: StopRequest,
    on_progress: OnProgress | None,
) -> "FitResult":
    from avb.runs._state import encoding
    from avb.training import fit

    def update(progress: "Progress") -> bool:
        files.update(progress)
        wants_stop = on_progress is not None and on_progress(progress)
        return stop.received or bool(wants_stop)

    values = record.resolved.values
    try:
        result = fit(
            state.method,
            training_values(dataset.train, values),
            config=record.config.fit,
            key=state.key,
            encoding=encoding(record),
            validation=held_out_values(
                dataset.validation, values, seed=HELD_OUT_SEEDS["validation"]
            ),
            init_state=state,
            on_progress=update,
        )
        files.save(result.state)
        return result
    except TrainingError as error:
        files.save(error.state)  # pyright: ignore[reportArgumentType]
        raise
    finally:
        files.checkpoints.close()
