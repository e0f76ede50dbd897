"""Tables for the terminal, from the same documents that are written as JSON."""

from typing import Any

from rich import box
from rich.table import Table

from avb.runs._methods import METHODS
from avb.runs._ranking import elbo_bracket_of, evidence_bracket_of, ranks

# What runs are ranked by; the other rows say how good a posterior or an estimator is.
RANKED = ("ELBO", "log p(x)")


def evaluation_table(document: dict[str, Any]) -> Table:
    """The numbers of one run, each with what it is and where it comes from.

    Args:
        document: What ``evaluate_run`` gave.
    """
    count = document["rows"][0]["data"]
    table = _table(
        f"{document['method']} on {document['data']}, {document['settings']['split']} split, "
        f"{count} data, step {document['step']}"
    )
    table.add_column("quantity")
    table.add_column("what it is")
    table.add_column("nats per datum", justify="right", no_wrap=True)
    table.add_column("s.e. (Monte Carlo)", justify="right")
    table.add_column("data", justify="right", no_wrap=True)
    table.add_column("how", style="dim")
    for row in document["rows"]:
        table.add_row(
            row["quantity"],
            "[red]wrong[/]" if "flag" in row else _styled(row["kind"]),
            f"{row['nats_per_datum']:.3f}",
            f"{row['standard_error']:.3f}",
            str(row["data"]),
            f"{row['estimator']}: {row['detail']}{_diagnostics(row)}",
        )
    table.caption = "\n".join(_remarks(document)) or None
    return table


def _diagnostics(row: dict[str, Any]) -> str:
    parts = []
    if "effective_samples_median" in row:
        median, least = row["effective_samples_median"], row["effective_samples_min"]
        parts.append(f"effective size {median:.3g} (least {least:.3g})")
    if "pareto_k_median" in row:
        share = row["pareto_k_share_above_0.7"]
        parts.append(f"Pareto k̂ {row['pareto_k_median']:.2f}, above 0.7 for {share:.0%} of data")
    return "; ".join(["", *parts])


def _remarks(document: dict[str, Any]) -> list[str]:
    """What stands below the table: numbers that are wrong and why, and active units."""
    remarks = [
        f"Wrong: {row['quantity']} by the {row['estimator']}: {row['flag']}"
        for row in document["rows"]
        if "flag" in row
    ]
    units = document.get("active_units")
    if units is not None:
        remarks.append(f"Active units: {units['active_units']} of {len(units['variances'])}.")
    return remarks


def comparison_table(documents: list[dict[str, Any]]) -> Table:
    """One row a run, ranked as far as the brackets tell the runs apart.

    Args:
        documents: What ``evaluate_run`` gave for each, on the same data.
    """
    first = documents[0]
    table = _table(
        f"{first['data']}, {first['settings']['split']} split, {first['rows'][0]['data']} data; "
        "nats per datum ± Monte Carlo s.e."
    )
    kept = [[row for row in doc["rows"] if row["quantity"] in RANKED] for doc in documents]
    columns = list(dict.fromkeys(_column(row) for rows in kept for row in rows))
    # The bounds of log p(x), which all methods have, come last.
    columns.sort(key=lambda column: RANKED.index(column[0]))
    table.add_column("run")
    table.add_column("method", no_wrap=True)
    for quantity, kind, estimator in columns:
        table.add_column(f"{quantity}\n{_styled(kind)}\n[dim]{estimator}[/]", justify="right")
    for quantity in RANKED:
        table.add_column(f"rank by\n{quantity}", justify="right")
    by_elbo = ranks([elbo_bracket_of(document) for document in documents])
    by_evidence = ranks([evidence_bracket_of(document) for document in documents])
    for document, rows, *places in zip(documents, kept, by_elbo, by_evidence, strict=True):
        cells = {_column(row): _cell(row) for row in rows}
        values = [cells.get(column, "–") for column in columns]
        table.add_row(document["run"], document["method"], *values, *map(str, places))
    table.caption = (
        "Runs whose brackets overlap share a range of ranks. Above, log p(x) ends at the annealed "
        "bound plus that bound's gap on data simulated from the model."
    )
    return table


def _cell(row: dict[str, Any]) -> str:
    text = f"{row['nats_per_datum']:.3f} ± {row['standard_error']:.3f}"
    return f"[red]{text} wrong[/]" if "flag" in row else text


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
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )


def _column(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["quantity"], row["kind"], row["estimator"]


def _styled(kind: str) -> str:
    if "estimate" in kind:
        return f"[yellow]{kind}[/]"
    return f"[green]{kind}[/]"
