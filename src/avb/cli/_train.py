"""``avb train`` and ``avb resume``."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from avb.cli._console import errors
from avb.cli._progress import TrainingProgress
from avb.runs._config import RunConfig, config_from_json
from avb.runs._record import read_record
from avb.training._config import FitConfig

if TYPE_CHECKING:
    from avb.training import FitResult

RunFolder = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="The run folder.")
]


@dataclasses.dataclass(frozen=True)
class FitOptions(FitConfig):
    """How to train."""

    def __post_init__(self):
        """Leave the checks to :attr:`Train.config`, whose errors are not Tyro's to print."""


@dataclasses.dataclass(frozen=True)
class Train(RunConfig):
    """Train a method on data, into a new run folder.

    For example:
    $ avb train digits --method avb_adaptive --epochs 100
    $ avb train mnist --data-dir ~/mnist --latent-dim 32 --network conv
    $ avb train counts.npz --likelihood negative-binomial --run-dir runs/counts
    $ avb train digits --start-from runs/digits-avb_adaptive-d8-s0 --epochs 100
    $ avb train digits --start-from runs/digits-avb_adaptive-d8-s0 --prior flow

    Attributes:
        run_dir: The run folder; by default runs/DATA-METHOD-dD-sSEED, or that of the run to start
            from with -further behind it.
        checkpoint_seconds: Seconds between checkpoints.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    method: Annotated[str, tyro.conf.arg(metavar="METHOD")] = RunConfig.method
    start_from: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    fit: FitOptions = dataclasses.field(default_factory=FitOptions)
    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    checkpoint_seconds: float = 30.0

    def __post_init__(self):
        """Leave the checks to :attr:`config`, whose errors are not Tyro's to print."""

    @property
    def config(self) -> RunConfig:
        """The run's configuration, checked, without what belongs to the command only."""
        names = {field.name for field in dataclasses.fields(RunConfig)}
        values = dataclasses.asdict(self)
        return config_from_json({name: values[name] for name in names})

    def run(self) -> int:
        """Run the command; the exit code."""
        config = self.config
        run_dir = self.run_dir or default_run_dir(config)

        def train(progress: TrainingProgress) -> "FitResult":
            from avb.runs import train_run

            if config.prior == "flow":
                said = f"first a flow is fitted to the posterior of {config.start_from}"
                errors().print(said, soft_wrap=True)
            return train_run(
                config,
                run_dir,
                on_progress=progress.update,
                on_prior=progress.update_prior,
                checkpoint_seconds=self.checkpoint_seconds,
            )

        return _show(train, config, run_dir)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped, bit for bit as if it had not been.

    For example:
    $ avb resume runs/digits-avb_adaptive-d8-s0

    Attributes:
        checkpoint_seconds: Seconds between checkpoints.
    """

    run_dir: RunFolder
    checkpoint_seconds: float = 30.0

    def run(self) -> int:
        """Run the command; the exit code."""
        config = read_record(self.run_dir).config

        def resume(progress: TrainingProgress) -> "FitResult":
            from avb.runs import resume_run

            return resume_run(
                self.run_dir,
                on_progress=progress.update,
                checkpoint_seconds=self.checkpoint_seconds,
            )

        return _show(resume, config, self.run_dir)


def default_run_dir(config: RunConfig) -> Path:
    """Where a run goes that was given no folder."""
    if config.start_from is not None:
        start = Path(config.start_from).absolute()
        return start.with_name(f"{start.name}-further")
    name = Path(config.data).stem or "data"
    return Path("runs") / f"{name}-{config.method}-d{config.latent_dim}-s{config.seed}"


def _show(
    train: "Callable[[TrainingProgress], FitResult]", config: RunConfig, run_dir: Path
) -> int:
    """Train with a progress bar, then draw the pictures; the exit code."""
    console = errors()
    console.print(f"{config.method} on {config.data} into {run_dir}", soft_wrap=True)
    with TrainingProgress(config.method, config.fit.epochs) as progress:
        result = train(progress)

    from avb.training import Outcome

    gain = read_record(run_dir).prior_gain
    if gain is not None:
        quantity = "log p(x)" if config.hmc_transitions else "ELBO"
        console.print(
            f"the flow gained {gain[0]:.2f} ± {gain[1]:.2f} nats of {quantity} before training, on "
            "data that it was not fitted to",
            soft_wrap=True,
        )
    if result.outcome is Outcome.STOPPED:
        step = int(result.state.step)
        console.print(
            f"stopped at step {step}, checkpoint saved; go on with: avb resume {run_dir}",
            soft_wrap=True,
        )
        return 1

    from avb.report import draw_run
    from avb.runs import load_run

    draw_run(load_run(run_dir))
    console.print(f"done; evaluate with: avb evaluate {run_dir}", soft_wrap=True)
    return 0
