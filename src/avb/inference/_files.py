"""Posteriors in files: arrays and numbers, no code."""

import dataclasses
import os

import jax
import jax.numpy as jnp

from avb._errors import ConfigError, RunError
from avb.inference._framed import single_frame
from avb.inference._journal import METHOD, TRAINING, Journal
from avb.inference._measure import Bracket, Importance
from avb.inference._methods import MethodName, skeleton
from avb.inference._mixture import Frames, ImplicitMixture
from avb.inference._npz import UNREADABLE, Arrays, from_arrays, read_arrays, to_arrays, write_arrays
from avb.inference._posterior import Approximation, Fit, Posterior
from avb.inference._restarts import Agreement
from avb.inference._row_fit import RowFit, RowIntegrals
from avb.inference._source import Source
from avb.inference._target import Target
from avb.inference._verdict import Verdict

FORMAT = 5
ROWS = "rows_"


def _frames_of(approximation: Approximation) -> Frames:
    if isinstance(approximation, ImplicitMixture):
        return approximation.frames
    return approximation.frame


def write(path: str | os.PathLike, posterior: Posterior) -> None:
    """Write all but the model into one ``.npz`` file, whole or not at all.

    Raises:
        RunError: It cannot be written.
    """
    has_density = posterior.has_density
    about = {
        "format": FORMAT,
        "shape": list(_frames_of(posterior.approximation).loc.shape),
        "elbo": dataclasses.asdict(posterior.elbo) if has_density else None,
        "importance": dataclasses.asdict(posterior.importance) if has_density else None,
        "verdict": dataclasses.asdict(posterior.verdict),
        "fit": dataclasses.asdict(posterior.fit),
        "rows": dataclasses.asdict(posterior.rows.integrals) if posterior.rows else None,
    }
    arrays = to_arrays(posterior.approximation)
    if posterior.rows is not None:
        arrays |= {ROWS + name: array for name, array in posterior.rows.arrays.items()}
    write_arrays(path, arrays, about)


def _like(method: MethodName, count: int, dim: int) -> Approximation:
    """An approximation of the same structure, whatever its numbers."""
    if method != "self":
        return skeleton(method, single_frame(jnp.zeros(dim), jnp.eye(dim)))
    zeros = jnp.zeros((count, dim))
    frames = Frames(zeros, jnp.zeros((count, dim, dim)), jnp.zeros((count, dim, dim)), zeros[:, 0])
    return ImplicitMixture(frames, zeros[:, 0], key=jax.random.key(0))


def _fit(about: dict) -> Fit:
    agreement = about["agreement"]
    if agreement is not None:
        pairs = {name: tuple(agreement[name]) for name in ("weights", "elbos")}
        agreement = Agreement(**{**agreement, **pairs})
    return Fit(**{**about, "weights": tuple(about["weights"]), "agreement": agreement})


def _rows(arrays: Arrays, about: dict | None, source: Source | None) -> RowFit | None:
    if about is None:
        return None
    own = {name.removeprefix(ROWS): array for name, array in arrays.items() if ROWS in name}
    return RowFit(own, RowIntegrals(**about), None).with_source(source)


def read(path: str | os.PathLike, target: Target | None, source: Source | None = None) -> Posterior:
    """The posterior in a file that :func:`write` made.

    Args:
        path: The file.
        target: The model; ``None`` where there is none.
        source: Its data, where it has a subsampled plate.

    Raises:
        RunError: No such file, or another's; or one of another version.
        ConfigError: The model has another dimension than the posterior.
    """
    try:
        arrays, about = read_arrays(path)
    except UNREADABLE as error:
        raise RunError(f"{os.fspath(path)}: expected a saved posterior, got {error}") from error
    if about["format"] != FORMAT:
        raise RunError(
            f"{os.fspath(path)}: expected format {FORMAT}, got {about['format']}; "
            "it was saved by another version of avb"
        )
    count, dim = about["shape"]
    if target is not None and target.dim != dim:
        raise ConfigError(
            f"dimensions of the loaded posterior's model: expected {dim}, got {target.dim}"
        )
    fit = _fit(about["fit"])
    approximation = from_arrays(arrays, _like(fit.method, count, dim))
    verdict = Verdict(about["verdict"]["converged"], tuple(about["verdict"]["reasons"]))
    elbo = None if about["elbo"] is None else Bracket(**about["elbo"])
    weights = None if about["importance"] is None else Importance(**about["importance"])
    rows = _rows(arrays, about["rows"], source)
    return Posterior(approximation, target, elbo, weights, verdict, fit, rows)


FINISHED = "posterior"
# A finished mixture that is still to be compared with a flow.
MIXTURE = "mixture"


def read_finished(
    journal: Journal, target: Target, source: Source | None = None
) -> Posterior | None:
    """The posterior of a run that is done."""
    return read_stage(journal, FINISHED, target, source)


def read_stage(
    journal: Journal, name: str, target: Target, source: Source | None = None
) -> Posterior | None:
    """A posterior that a run left on the way."""
    return read(journal.path(name), target, source) if journal.has(name) else None


def write_stage(journal: Journal, name: str, posterior: Posterior) -> None:
    """Keep a posterior on the way."""
    if journal.folder is not None and not journal.has(name):
        write(journal.path(name), posterior)


def finish(journal: Journal, posterior: Posterior) -> Posterior:
    """The posterior with the time that it took; that a run is done is noted."""
    if journal.has(FINISHED):
        return posterior
    posterior.fit = dataclasses.replace(posterior.fit, seconds=journal.seconds)
    if journal.folder is not None:
        write(journal.path(FINISHED), posterior)
        # Where training was is of no use now.
        for part in (TRAINING, METHOD, MIXTURE):
            journal.forget(part)
    return posterior
