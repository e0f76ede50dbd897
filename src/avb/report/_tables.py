"""Tables for the terminal, from the same documents that are written as JSON."""

from typing import Any

from rich import box
from rich.table import Table

from avb.runs._methods import METHODS


def evaluation_table(document: dict[str, Any]) -> Table:
    """The numbers of one run, each with what it is.

    Args:
        document: What ``evaluate_run`` gave.
    """
    count = document["rows"][0]["data"]
    table = _table(
        f"{document['method']} on {document['data']}, {document['settings']['split']} split, "
        f"{count} data, step {document['step']}"
    )
    table.add_column("quantity", no_wrap=True)
    table.add_column("what it is")
    table.add_column("nats per datum", justify="right", no_wrap=True)
    table.add_column("s.e. (Monte Carlo)", justify="right", no_wrap=True)
    table.add_column("detail", style="dim")
    for row in document["rows"]:
        table.add_row(
            row["quantity"],
            _styled(row["kind"]),
            f"{row['nats_per_datum']:.3f}",
            f"{row['standard_error']:.3f}",
            row["detail"],
        )
    return table


def comparison_table(documents: list[dict[str, Any]]) -> Table:
    """One row a run.

    Args:
        documents: What ``evaluate_run`` gave for each, on the same data.
    """
    first = documents[0]
    table = _table(
        f"{first['data']}, {first['settings']['split']} split, {first['rows'][0]['data']} data; "
        "nats per datum ± Monte Carlo s.e."
    )
    columns = list(dict.fromkeys(_column(row) for doc in documents for row in doc["rows"]))
    # The bound of log p(x), which all methods have, comes last.
    columns.sort(key=lambda column: column[0] != "ELBO")
    table.add_column("run")
    table.add_column("method", no_wrap=True)
    table.add_column("step", justify="right")
    for quantity, kind in columns:
        table.add_column(f"{quantity}\n{_styled(kind)}", justify="right")
    for document in documents:
        cells = {
            _column(row): f"{row['nats_per_datum']:.3f} ± {row['standard_error']:.3f}"
            for row in document["rows"]
        }
        values = [cells.get(column, "–") for column in columns]
        table.add_row(document["run"], document["method"], str(document["step"]), *values)
    return table


def methods_table() -> Table:
    """All methods that ``--method`` takes."""
    table = _table("Methods")
    headings = ("name", "posterior q", "contrast r", "critic", "ELBO in training", "paper")
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "name")
    for info in METHODS:
        table.add_row(
            f"[bold]{info.name}[/]",
            info.posterior,
            info.contrast,
            info.critic,
            _styled(info.elbo),
            info.paper,
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _column(row: dict[str, Any]) -> tuple[str, str]:
    return row["quantity"], row["kind"]


def _styled(kind: str) -> str:
    if kind.startswith("critic"):
        return f"[yellow]{kind}[/]"
    return f"[green]{kind}[/]"
