"""Evaluate a run, and keep the numbers with it."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from avb._errors import ConfigError
from avb.evaluation._config import EvaluationConfig
from avb.runs._folder import EVALUATION, write_json
from avb.runs._load import Run
from avb.runs._prepare import Split


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
    """Evaluate a run and write ``evaluation.json``.

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
    write_json(run.path / EVALUATION, document)
    return document


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """The numbers that belong to the run's newest checkpoint, if there are any."""
    try:
        document = json.loads((run.path / EVALUATION).read_text(encoding="utf-8"))
        return document if document["step"] == run.step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
