"""``avb diagnose``."""

import dataclasses

from avb.cli._console import errors, print_json, results
from avb.cli._progress import EvaluationProgress
from avb.cli._train import RunFolder
from avb.runs._diagnose import DiagnosisSettings, diagnose_run
from avb.runs._load import load_run


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Find the part of a run's adversary that is at fault, and draw adversary.png.

    For example:
    $ avb diagnose runs/digits-avb_adaptive-d8-s0

    Attributes:
        json: Print the numbers as JSON.
    """

    run_dir: RunFolder
    settings: DiagnosisSettings = dataclasses.field(default_factory=DiagnosisSettings)
    json: bool = False

    def run(self) -> int:
        """Run the command; the exit code."""
        with EvaluationProgress() as progress:
            run = load_run(self.run_dir)
            diagnosis = diagnose_run(run, self.settings, progress=progress.update)
        from avb.report import diagnosis_table, draw_adversary

        draw_adversary(run, diagnosis)
        errors().print(f"wrote {run.path / 'adversary.png'}", soft_wrap=True)
        if self.json:
            print_json(diagnosis.as_dict())
            return 0
        results().print(diagnosis_table(diagnosis))
        results().print(diagnosis.sentence, soft_wrap=True, markup=False, highlight=False)
        return 0
