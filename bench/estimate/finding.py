"""A finding of ``doctor``, and how findings are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

from posterior_bench.bench.core.terminal import out

State = Literal["ok", "warning", "missing"]

_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Parameters
    ----------
    check : str
        What was checked.
    state : {'ok', 'warning', 'missing'}
        The result; a run is refused where something is missing.
    found : str
        What was found.
    remedy : str, default ''
        The setting, file or command that repairs it.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a table on a terminal; elsewhere a line for each finding, its remedy indented below."""
    if out.is_terminal:
        out.print(_table(findings))
        return
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        out.print(f"{finding.state:<7}  {finding.check:<{width}}  {finding.found}", markup=False)
        if finding.remedy:
            out.print(f"{'':<7}  {'':<{width}}  -> {finding.remedy}", markup=False)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("check", "state", "found", box=None, pad_edge=False)
    for finding in findings:
        remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
        colour = _COLOURS[finding.state]
        state = f"[{colour}]{finding.state}[/{colour}]"
        table.add_row(finding.check, state, escape(finding.found + remedy))
    return table
