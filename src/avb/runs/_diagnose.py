"""Diagnose the adversary of a run, and keep the numbers with it."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from avb._errors import ConfigError
from avb.runs._folder import write_json
from avb.runs._load import Run
from avb.runs._prepare import Split

if TYPE_CHECKING:
    from avb.evaluation import Diagnosis

DIAGNOSIS = "diagnosis.json"


@dataclasses.dataclass(frozen=True)
class DiagnosisSettings:
    """On what and how precisely to diagnose.

    Attributes:
        split: The split of the data.
        num_data: The first so many data only.
        seed: Seed of the draws.
        tolerance: Error of the critic's ELBO that is no fault, in nats per datum.
        steps: Steps for which critics are trained.
        draws: Posterior draws a datum.
    """

    split: Split = "validation"
    num_data: int = 200
    seed: int = 0
    tolerance: float = 0.1
    steps: int = 2000
    draws: int = 32


def diagnose_run(
    run: Run,
    settings: DiagnosisSettings = DiagnosisSettings(),
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> "Diagnosis":
    """Find the part of a run's adversary that is at fault, and write ``diagnosis.json``.

    Args:
        run: The run.
        settings: On what and how precisely.
        progress: Called with what is being done, how much of it is done, and how much there is.

    Returns:
        The diagnosis; see :func:`avb.evaluation.diagnose`.

    Raises:
        ConfigError: The method has no critic, or a size is out of range.
        DataError: The data cannot be loaded.
        RunError: The data have changed, or the folder cannot be written.
    """
    if settings.num_data < 1:
        raise ConfigError(f"num_data: expected at least 1, got {settings.num_data}")

    import jax

    from avb.evaluation import diagnose

    if run.method.critic is None:
        raise ConfigError(
            f"a diagnosis is of a critic: expected a method with one, got "
            f"{run.record.config.method!r}; use 'avb evaluate'"
        )
    diagnosis = diagnose(
        run.method,
        run.held_out(settings.split)[: settings.num_data],
        key=jax.random.key(settings.seed),
        tolerance=settings.tolerance,
        steps=settings.steps,
        draws=settings.draws,
        progress=progress,
    )
    document = {
        **run.identity(),
        "settings": dataclasses.asdict(settings),
        **diagnosis.as_dict(),
    }
    write_json(run.path / DIAGNOSIS, document)
    return diagnosis
