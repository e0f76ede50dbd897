"""``avb evaluate`` and ``avb compare``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from avb._errors import RunError
from avb.cli._console import errors, print_json, results
from avb.cli._progress import EvaluationProgress
from avb.cli._train import RunFolder
from avb.runs._evaluate import EvaluationSettings, evaluate_run, read_evaluation
from avb.runs._load import load_run
from avb.runs._paired import behind_best


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Bound the ELBO and log p(x) of a run's newest checkpoint; each number says what it is.

    For example:
    $ avb evaluate runs/digits-avb_adaptive-d8-s0
    $ avb evaluate runs/digits-avb_adaptive-d8-s0 --importance-samples 5000 --json
    $ avb evaluate runs/digits-avb_adaptive-d8-s0 --pictures

    Attributes:
        pictures: Also draw what stands behind the numbers, into the run folder.
        json: Print the numbers as JSON.
    """

    run_dir: RunFolder
    settings: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)
    pictures: bool = False
    json: bool = False

    def run(self) -> int:
        """Run the command; the exit code."""
        with EvaluationProgress() as progress:
            run = load_run(self.run_dir)
            document = evaluate_run(run, self.settings, progress=progress.update)
            drawn = []
            if self.pictures:
                from avb.report import draw_evaluation

                drawn = draw_evaluation(run, self.settings, progress=progress.update)
        for name in drawn:
            errors().print(f"wrote {run.path / name}", soft_wrap=True)
        if self.json:
            print_json(document)
            return 0
        from avb.report import evaluation_table

        results().print(evaluation_table(document))
        return 0


@dataclasses.dataclass(frozen=True)
class Compare:
    """Put the numbers of several runs on the same data side by side.

    Runs without an evaluation of their newest checkpoint are evaluated on the test split.

    For example:
    $ avb compare runs/digits-gaussian_vae-d8-s0 runs/digits-avb_adaptive-d8-s0

    Attributes:
        json: Print the numbers as JSON.
    """

    run_dirs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN RUN …", help="The run folders."),
    ]
    json: bool = False

    def run(self) -> int:
        """Run the command; the exit code."""
        runs = [load_run(run_dir) for run_dir in self.run_dirs]
        if not runs:
            raise RunError("compare expects at least one run folder, got none")
        for run in runs[1:]:
            expect_comparable(_about(runs[0]), _about(run))
        documents = []
        with EvaluationProgress() as progress:
            for run in runs:
                document = read_evaluation(run)
                documents.append(document or evaluate_run(run, progress=progress.update))
        for run, document in zip(runs[1:], documents[1:], strict=True):
            expect_comparable(
                {"run": runs[0].path, **_on_what(documents[0])},
                {"run": run.path, **_on_what(document)},
            )
        documents = behind_best(runs, documents)
        if self.json:
            print_json(documents)
            return 0
        from avb.report import comparison_table

        results().print(comparison_table(documents))
        return 0


def expect_comparable(first: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuse to compare numbers of different data.

    Args:
        first: What the first run's numbers are about, and the ``run``'s folder.
        other: The same of another run.

    Raises:
        RunError: They differ.
    """
    for name in first:
        if name != "run" and first[name] != other[name]:
            raise RunError(
                f"{first['run']} and {other['run']} cannot be compared: {name} is "
                f"{first[name]} in the first and {other[name]} in the second; compare runs on the "
                "same data, evaluated alike"
            )


def _about(run: Any) -> dict[str, Any]:
    record = run.record
    return {
        "run": run.path,
        "the data set": record.data["name"],
        "the data's fingerprint": record.data["fingerprint"][:12],
        "the kind of values": record.resolved.values,
    }


def _on_what(document: dict[str, Any]) -> dict[str, Any]:
    settings = document["settings"]
    return {
        "the split": settings["split"],
        "the number of data": document["rows"][0]["data"],
        "the number of annealed data": settings["precision"]["annealed_data"],
    }
