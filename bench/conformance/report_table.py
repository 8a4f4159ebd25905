"""Reports of ``bench check`` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from posterior_bench.bench.conformance.class_promises import CLASS_PROMISES
from posterior_bench.bench.conformance.operator_promises import OPERATOR_PROMISES
from posterior_bench.bench.conformance.promise import Promise
from posterior_bench.bench.conformance.results import (
    FAIL,
    PASS,
    SKIPPED,
    WARNING,
    Report,
    Result,
)
from posterior_bench.bench.conformance.run_promises import RUN_PROMISES

_MARKS = {
    PASS: "[green]pass[/]",
    FAIL: "[red]FAIL[/]",
    WARNING: "[yellow]warn[/]",
    SKIPPED: "[dim]skip[/]",
    "": "",
}


def table(report: Report) -> Table:
    """Return the table of a report: a row per promise, a column per place of the check.

    Parameters
    ----------
    report : Report
        The report of a solver.

    Returns
    -------
    rich.table.Table
        The last column has the reasons of results that are not ``pass``, or the promise in words.
    """
    view = Table(
        "promise", *report.columns, "", title=f"solver={report.solver}", title_justify="left"
    )
    for promise in (*CLASS_PROMISES, *RUN_PROMISES, *OPERATOR_PROMISES):
        row = {
            column: next((r for r in results if r.name == promise.name), None)
            for column, results in report.columns.items()
        }
        if any(row.values()):
            marks = (_MARKS[result.status if result else ""] for result in row.values())
            view.add_row(promise.name, *marks, _note(promise, row))
    return view


def _note(promise: Promise, row: Mapping[str, Result | None]) -> str:
    """Return every reason with the columns in which it holds, or else the promise in words."""
    columns: dict[str, list[str]] = {}
    for column, result in row.items():
        if result and result.reason:
            columns.setdefault(result.reason, []).append(column)
    notes = [f"{', '.join(names)}: {escape(reason)}" for reason, names in columns.items()]
    return "; ".join(notes) or f"[dim]{escape(promise.text)}[/]"


def summary(reports: Sequence[Report]) -> str:
    """Return a line per broken promise, then a line per warning.

    Parameters
    ----------
    reports : Sequence of Report
        The reports of all checked solvers.

    Returns
    -------
    str
        The lines; the first says so if no promise is broken.
    """
    broken = [
        f"solver={r.solver} breaks {result.name} ({column})"
        for r in reports
        for column, result in r.failures
    ]
    warnings = [
        f"warning: solver={r.solver} {result.name} ({column}): {result.reason}"
        for r in reports
        for column, result in r.warnings
    ]
    good = ["every promise that could be checked here is kept"]
    return "\n".join([*(broken or good), *warnings])
