"""Draws by site as columns, and a picture of two such sets of draws, pair by pair."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from avb._errors import ConfigError, DataError
from avb.inference._summary import scalars


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _chosen(
    drawn: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike], sites: Sequence[str] | None
) -> list[str]:
    """The sites to show.

    Raises:
        ConfigError: One of them is missing on a side, or there is none.
    """
    if isinstance(sites, str):
        raise ConfigError(f"sites: expected names in a list, got the string {sites!r}")
    common = [name for name in drawn if name in reference]
    chosen = common if sites is None else list(sites)
    missing = [name for name in chosen if name not in common]
    if missing or not chosen:
        raise ConfigError(
            f"sites: expected some that both have, of {_quoted(list(drawn))} in the posterior and "
            f"{_quoted(list(reference))} in the reference, got {_quoted(missing)}"
        )
    return chosen


def draw_site_pairs(
    path: str | os.PathLike,
    drawn: Mapping[str, ArrayLike],
    reference: Mapping[str, ArrayLike],
    sites: Sequence[str] | None,
) -> None:
    """See :meth:`avb.inference.Posterior.draw_pairs`."""
    from avb.report import draw_two_samples

    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in _chosen(drawn, reference, sites):
        ours, theirs = np.asarray(drawn[name]), np.asarray(reference[name])
        if ours.ndim != theirs.ndim or ours.shape[1:] != theirs.shape[1:]:
            raise DataError(
                f"reference of site {name!r}: expected shape (draws{_after(ours)}), got "
                f"{theirs.shape}"
            )
        both = zip(scalars(name, ours), scalars(name, theirs), strict=True)
        columns |= {scalar: (x, y) for (scalar, x), (_, y) in both}
    first, second = (np.stack(side, axis=1) for side in zip(*columns.values(), strict=True))
    draw_two_samples(first, second, path, list(columns))


def _after(values: np.ndarray) -> str:
    return "".join(f", {size}" for size in values.shape[1:])
