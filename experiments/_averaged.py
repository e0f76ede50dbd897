"""Several decoders of one latent space as one: the mean of their logits.

The Bernoulli likelihood of a mean of logits is the normalised geometric mean of the members'
likelihoods. Its log-normaliser is convex in the logits, so that log p(x|z) of the mean is at least
the mean of the members' log p_m(x|z), whatever the data.
"""

from collections.abc import Callable
from pathlib import Path

import equinox as eqx
from jaxtyping import Array, Float

import avb
from avb._types import Latent
from avb.models import LatentVariableModel
from avb.nets._rows import over_rows


class AveragedDecoder(eqx.Module):
    """The mean of what several decoders give for a latent vector.

    Attributes:
        members: Decoders of the same latent space and outputs of the same shape.
    """

    members: list[Callable]

    def __call__(self, z: Latent) -> Float[Array, "..."]:
        """Mean parameters of one latent vector."""
        return self.of_rows(z[None])[0]

    def of_rows(self, z: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        """Those of n latent vectors."""
        total = over_rows(self.members[0])(z)
        for member in self.members[1:]:
            total += over_rows(member)(z)
        return total / len(self.members)


def folder_of(run_dir: Path) -> Path:
    """Where ``experiments.decoders`` keeps what it made for a run, beside the run's folder."""
    return run_dir.with_name(f"{run_dir.name}_decoders")


def member_path(run_dir: Path, member: int) -> Path:
    """The file of one of the decoders that were trained after the run, counted from 1."""
    return folder_of(run_dir) / f"{member}.eqx"


def student_path(run_dir: Path, fresh: int) -> Path:
    """The file of the one decoder that learnt the mean of the run's own and so many others."""
    return folder_of(run_dir) / f"student-of-{fresh}.eqx"


def members_of(run_dir: Path, method: avb.Method, fresh: int) -> list[Callable]:
    """The first so many that were trained after the run."""
    command = f"python -m experiments.decoders --run-dir {run_dir} --fresh {fresh}"
    paths = [member_path(run_dir, member) for member in range(1, fresh + 1)]
    return [_read(path, method, command) for path in paths]


def averaged(
    run_dir: Path, method: avb.Method, fresh: int, *, student: bool = False
) -> LatentVariableModel:
    """The run's model with the mean of its decoder and so many others, or with what learnt it."""
    if student:
        command = f"python -m experiments.decoders --run-dir {run_dir} --fresh {fresh} --student"
        decoder = _read(student_path(run_dir, fresh), method, command)
    else:
        decoder = AveragedDecoder([method.model.decoder, *members_of(run_dir, method, fresh)])
    return eqx.tree_at(lambda model: model.decoder, method.model, decoder)


def _read(path: Path, method: avb.Method, command: str) -> Callable:
    if not path.exists():
        raise SystemExit(f"{path} does not exist: {command} trains it")
    return eqx.tree_deserialise_leaves(path, method.model.decoder)
