"""Evaluate a run, and keep the numbers with it."""

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from avb._errors import ConfigError
from avb.evaluation._config import EvaluationConfig
from avb.runs._folder import EVALUATION, EVALUATION_VALUES, write_bytes, write_json
from avb.runs._load import Run
from avb.runs._prepare import Split

if TYPE_CHECKING:
    from avb.evaluation import Estimate


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """On what and how precisely to evaluate.

    Attributes:
        split: The split of the data.
        num_data: The first so many data only; by default all.
        seed: Seed of the draws.
        precision: How precisely.
    """

    split: Split = "test"
    num_data: int | None = None
    seed: int = 0
    precision: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def evaluate_run(
    run: Run,
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a run; write ``evaluation.json``, and its values datum by datum beside it.

    Args:
        run: The run.
        settings: On what and how precisely.
        progress: Called with the name of the present quantity, the data done and in all.

    Returns:
        What was written: the rows of :class:`avb.Evaluation` and what they belong to.

    Raises:
        ConfigError: Too few data, draws or samples.
        DataError: The data cannot be loaded.
        RunError: The data have changed, or the folder cannot be written.
    """
    if settings.num_data is not None and settings.num_data < 1:
        raise ConfigError(f"num_data: expected at least 1, got {settings.num_data}")

    import jax

    from avb.evaluation import evaluate

    data = run.held_out(settings.split)[: settings.num_data]
    evaluation = evaluate(
        run.method,
        data,
        key=jax.random.key(settings.seed),
        config=settings.precision,
        progress=progress,
    )
    document = {
        **run.identity(),
        "fingerprint": run.record.data["fingerprint"],
        "values": run.record.resolved.values,
        "settings": dataclasses.asdict(settings),
        **evaluation.as_dict(),
    }
    _write_values(run, evaluation.rows)
    write_json(run.path / EVALUATION, document)
    return document


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """The numbers that belong to the run's newest checkpoint, if there are any."""
    try:
        document = json.loads((run.path / EVALUATION).read_text(encoding="utf-8"))
        return document if document["step"] == run.step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_values(run: Run, row: dict[str, Any]) -> np.ndarray | None:
    """The values of one row datum by datum, shape ``(n,)``; ``None`` where they were not kept.

    Args:
        run: The run.
        row: One of the rows of its evaluation.
    """
    try:
        with np.load(run.path / EVALUATION_VALUES, allow_pickle=False) as arrays:
            values = arrays[_name(row["quantity"], row["kind"], row["estimator"])]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    # A process that was killed between both files leaves values of another evaluation.
    mean = float(np.mean(values, dtype=np.float64))
    same = len(values) == row["data"] and math.isclose(mean, row["nats_per_datum"], rel_tol=1e-9)
    return values if same else None


def _write_values(run: Run, rows: "list[Estimate]") -> None:
    kept = [row for row in rows if row.quantity in ("ELBO", "log p(x)")]
    buffer = io.BytesIO()
    arrays = {_name(row.quantity, row.kind, row.estimator): np.asarray(row.values) for row in kept}
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_bytes(run.path / EVALUATION_VALUES, buffer.getvalue())


def _name(quantity: str, kind: str, estimator: str) -> str:
    return f"{quantity}, {kind}, {estimator}"
