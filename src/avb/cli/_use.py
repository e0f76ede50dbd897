"""``avb sample``, ``avb reconstruct``, ``avb encode`` and ``avb methods``."""

import dataclasses
import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from avb._errors import ConfigError
from avb.cli._console import errors, results
from avb.cli._train import RunFolder
from avb.data import load_dataset
from avb.runs._folder import write_bytes
from avb.runs._load import load_run
from avb.runs._prepare import Split


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw from the model: samples.png shows the means, samples.npz holds z, mean and x.

    For example:
    $ avb sample runs/digits-avb_adaptive-d8-s0 -n 100

    Attributes:
        num_samples: Draws.
        seed: Seed of the draws.
    """

    run_dir: RunFolder
    num_samples: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    seed: int = 0

    def run(self) -> int:
        """Run the command; the exit code."""
        if self.num_samples < 1:
            raise ConfigError(f"num_samples: expected at least 1, got {self.num_samples}")
        run = load_run(self.run_dir)
        from avb.report import draw_samples

        samples = draw_samples(run, count=self.num_samples, seed=self.seed)
        path = run.path / "samples.npz"
        write_npz(path, **samples._asdict())
        errors().print(f"wrote {run.path / 'samples.png'} and {path}", soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """Draw reconstructions.png: test data above two reconstructions of each.

    For example:
    $ avb reconstruct runs/digits-avb_adaptive-d8-s0
    """

    run_dir: RunFolder

    def run(self) -> int:
        """Run the command; the exit code."""
        run = load_run(self.run_dir)
        from avb.report import draw_reconstructions

        draw_reconstructions(run)
        errors().print(f"wrote {run.path / 'reconstructions.png'}", soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True)
class Encode:
    """Draw from q(z|x) for each datum: z of shape (n, draws, d) and mean of shape (n, d).

    For example:
    $ avb encode runs/digits-avb_adaptive-d8-s0 digits --out z.npz

    Attributes:
        out: The .npz file to write.
        data_dir: The folder of the IDX files, for mnist and fashion-mnist.
        split: The split of the data.
        draws: Draws a datum.
        seed: Seed of the draws.
    """

    run_dir: RunFolder
    data: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DATA", help="As for avb train."),
    ]
    out: Path
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    split: Split = "test"
    draws: int = 16
    seed: int = 0

    def run(self) -> int:
        """Run the command; the exit code."""
        if self.draws < 1:
            raise ConfigError(f"draws: expected at least 1, got {self.draws}")
        dataset = load_dataset(self.data, data_dir=self.data_dir)
        run = load_run(self.run_dir)
        values = run.values_of(getattr(dataset, self.split), label=dataset.name)
        from avb.runs import encode

        write_npz(self.out, **encode(run, values, draws=self.draws, seed=self.seed)._asdict())
        errors().print(f"wrote {self.out}", soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods that --method takes."""

    def run(self) -> int:
        """Run the command; the exit code."""
        from avb.report import methods_table

        results().print(methods_table())
        return 0


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to a .npz file, whole or not at all.

    Raises:
        RunError: The file cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())
