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


def averaged(run_dir: Path, method: avb.Method, fresh: int) -> LatentVariableModel:
    """The run's model, its decoder averaged with the first so many trained after it."""
    members = [method.model.decoder, *members_of(run_dir, method, fresh)]
    return eqx.tree_at(lambda model: model.decoder, method.model, AveragedDecoder(members))


def replaced(run_dir: Path, method: avb.Method, member: int) -> LatentVariableModel:
    """The run's model with one of the decoders that were trained after it in place of its own."""
    decoder = members_of(run_dir, method, member)[-1]
    return eqx.tree_at(lambda model: model.decoder, method.model, decoder)


def members_of(run_dir: Path, method: avb.Method, fresh: int) -> list[Callable]:
    """The first so many that were trained after the run."""
    paths = [member_path(run_dir, member) for member in range(1, fresh + 1)]
    for path in paths:
        if not path.exists():
            raise SystemExit(
                f"{path} does not exist: python -m experiments.decoders --run-dir {run_dir} "
                f"--fresh {fresh} trains it"
            )
    return [eqx.tree_deserialise_leaves(path, method.model.decoder) for path in paths]
