"""Tables for the terminal, from the same documents that are written as JSON."""

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from avb.runs._methods import METHODS
from avb.runs._ranking import elbo_bracket_of, evidence_bracket_of, ranks


def evaluation_table(document: dict[str, Any]) -> Group:
    """The numbers of one run, each with what it is, and below them where each comes from.

    Args:
        document: What ``evaluate_run`` gave.
    """
    count = document["rows"][0]["data"]
    table = plain_table(
        f"{document['method']} on {document['data']}, {document['settings']['split']} split, "
        f"{count} data, step {document['step']}; nats per datum"
    )
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("quantity")
    table.add_column("what it is")
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("s.e. (Monte\nCarlo)", justify="right")
    table.add_column("s.e.\n(data)", justify="right")
    table.add_column("data", justify="right", no_wrap=True)
    for number, row in enumerate(document["rows"], 1):
        table.add_row(
            str(number),
            row["quantity"],
            _mark(row) or _styled(row["kind"]),
            f"{row['nats_per_datum']:.3f}",
            f"{row['standard_error']:.3f}",
            f"{row['standard_error_over_data']:.3f}" if row["data"] > 1 else "–",
            str(row["data"]),
        )
    return Group(table, _sources(document), *(Text(line) for line in _remarks(document)))


def _sources(document: dict[str, Any]) -> Table:
    """Where each number comes from, by the row's number."""
    rows_of: dict[str, list[str]] = {}
    for number, row in enumerate(document["rows"], 1):
        source = f"{row['estimator']}: {row['detail']}{_diagnostics(row)}"
        rows_of.setdefault(source, []).append(str(number))
    sources = Table.grid(padding=(0, 2, 0, 0))
    sources.add_column(justify="right", style="dim", no_wrap=True, min_width=4)
    sources.add_column(style="dim")
    for source, numbers in rows_of.items():
        sources.add_row(", ".join(numbers), source)
    sources.add_row("", "")
    return sources


def _mark(row: dict[str, Any]) -> str:
    """What is to be said against a number; empty where nothing is."""
    if "flag" in row:
        return "[red]wrong[/]"
    return "[yellow]unconfirmed[/]" if "doubt" in row else ""


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
    """What stands below the table: what to think of the critic's number, and active units."""
    remarks = [
        f"{heading}: {row['quantity']} by the {row['estimator']}: {row[finding]}"
        for heading, finding in (("Wrong", "flag"), ("Unconfirmed", "doubt"))
        for row in document["rows"]
        if finding in row
    ]
    verdict = document.get("critic")
    if verdict is not None and verdict["sound"] and not verdict["doubts"]:
        remarks.append(
            "Sound: nothing speaks against the critic of training, whose ELBO is found to be "
            f"{_too_high(verdict)} too high (judge: {verdict['judge']})."
        )
    units = document.get("active_units")
    if units is not None:
        active, all_units = units["active_units"], len(units["variances"])
        hint = "" if active == all_units else "; a longer --kl-warmup may wake the others"
        remarks.append(f"Active units: {active} of {all_units}{hint}.")
    return remarks


def _too_high(verdict: dict[str, Any]) -> str:
    """What the judge found; one that knows less than the critic found nothing."""
    found = verdict["too_high"]
    return f"{max(found['nats'], 0.0):.2f} ± {found['error']:.2f} nats"


def comparison_table(documents: list[dict[str, Any]]) -> Table:
    """One row a run, one column a question; ranked as far as the brackets tell runs apart.

    Args:
        documents: What ``behind_best`` gave for each, on the same data.
    """
    first = documents[0]
    table = plain_table(
        f"{first['data']}, {first['settings']['split']} split, {first['rows'][0]['data']} data; "
        "nats per datum ± Monte Carlo s.e."
    )
    questions = [_elbo_cell, _critic_cell, *(_bound_cell(name) for name in _bounds(documents))]
    questions.append(_difference_cell)
    headings = ["ELBO", "its critic's\n[yellow]estimate[/]"]
    headings += [f"log p(x) ≥\n{name}" for name in _bounds(documents)]
    table.add_column("run")
    table.add_column("method", no_wrap=True)
    headings.append("log p(x) less\nthe best's\n± s.e. (data)")
    for heading in (*headings, "rank by\nELBO", "rank by\nlog p(x)"):
        table.add_column(heading, justify="right")
    by_elbo = ranks([elbo_bracket_of(document) for document in documents])
    by_evidence = ranks([evidence_bracket_of(document) for document in documents])
    for document, *places in zip(documents, by_elbo, by_evidence, strict=True):
        cells = [question(document) for question in questions]
        table.add_row(document["run"], document["method"], *cells, *map(str, places))
    table.caption = (
        "Runs whose brackets overlap share a range of ranks. Above, log p(x) ends at the annealed "
        "bound plus that bound's gap on data simulated from the model. Ranks are on these data; "
        "the s.e. (data) of a difference says what other data would change."
    )
    return table


def _bounds(documents: list[dict[str, Any]]) -> list[str]:
    """Where the lower bounds of log p(x) come from, in order."""
    rows = [row for document in documents for row in document["rows"]]
    return list(dict.fromkeys(row["estimator"] for row in rows if row["quantity"] == "log p(x)"))


def _bound_cell(estimator: str) -> Callable[[dict[str, Any]], str]:
    def cell(document: dict[str, Any]) -> str:
        for row in document["rows"]:
            if row["quantity"] == "log p(x)" and row["estimator"] == estimator:
                return _number(row)
        return "–"

    return cell


def _elbo_cell(document: dict[str, Any]) -> str:
    """The value, the bracket, or one end of it."""
    rows = {row["kind"]: row for row in document["rows"] if row["quantity"] == "ELBO"}
    lower, upper = rows.get("lower bound"), rows.get("upper bound")
    if "exact" in rows:
        return _number(rows["exact"])
    if lower is not None and upper is not None:
        ends = f"{lower['nats_per_datum']:.3f}, {upper['nats_per_datum']:.3f}"
        return f"\\[{ends}] ± {max(lower['standard_error'], upper['standard_error']):.3f}"
    return "–" if upper is None else f"≤ {_number(upper)}"


def _critic_cell(document: dict[str, Any]) -> str:
    for row in document["rows"]:
        if row["estimator"] == "critic of training":
            return f"{_number(row)} {_mark(row)}".strip()
    return "–"


def _difference_cell(document: dict[str, Any]) -> str:
    difference = document.get("behind_best")
    if difference is None:
        return "–"
    nats, error = difference["nats_per_datum"], difference["standard_error_over_data"]
    return f"{nats:.3f} ± {error:.3f}" if nats or error else "best"


def _number(row: dict[str, Any]) -> str:
    return f"{row['nats_per_datum']:.3f} ± {row['standard_error']:.3f}"


def methods_table() -> Table:
    """All methods that ``--method`` takes."""
    table = plain_table("Methods")
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


def plain_table(title: str) -> Table:
    """A table without columns yet, in the style of all others."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )


def _styled(kind: str) -> str:
    if "estimate" in kind:
        return f"[yellow]{kind}[/]"
    return f"[green]{kind}[/]"
