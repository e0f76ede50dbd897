"""Means, sds and quantiles of draws, scalar by scalar."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from avb.inference._target import Sites

COLUMNS = ("mean", "sd", "5%", "median", "95%")


def scalars(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Name and draws of every scalar of a site, whose draws have shape ``(n, ...)``."""
    flat = values.reshape(len(values), -1)
    for index, column in zip(np.ndindex(values.shape[1:]), flat.T, strict=True):
        yield name + (f"[{','.join(map(str, index))}]" if index else ""), column


def summary_rows(sites: Sites) -> list[dict[str, Any]]:
    """Mean, sd and quantiles of every scalar of draws by site, of shape ``(n, ...)`` each."""
    rows = []
    for name, values in sites.items():
        for site, column in scalars(name, np.asarray(values)):
            low, median, high = np.quantile(column, (0.05, 0.5, 0.95))
            numbers = (np.mean(column), np.std(column), low, median, high)
            rows.append(
                {"site": site, **dict(zip(COLUMNS, (float(n) for n in numbers), strict=True))}
            )
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    width = max(len(row["site"]) for row in rows)
    lines = [" " * width + "".join(f"{c:>12}" for c in COLUMNS)]
    lines += [
        f"{row['site']:<{width}}" + "".join(f"{row[c]:12.4g}" for c in COLUMNS) for row in rows
    ]
    return "\n".join(lines)
