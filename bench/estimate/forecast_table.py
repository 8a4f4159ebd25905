"""The lines that ``plan`` prints of an estimate: a table of cells, their sum, and notes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from posterior_bench.bench.estimate.plan_settings import PlanSettings
from posterior_bench.bench.estimate.row_cost import (
    CALLS_HERE,
    NOT_APPLICABLE,
    OWN_ROWS,
    PRINTED,
    CellEstimate,
    RowCost,
)

_COLUMNS = ("cell", "rows", "NFE", "passes", "hours", "MiB", "hours from")


def forecast_table(cells: Sequence[CellEstimate], settings: PlanSettings) -> Group:
    """Return a table with a line for each cell, the sum, and where the figures are from.

    Parameters
    ----------
    cells : sequence of CellEstimate
        The estimates.
    settings : PlanSettings
        The settings with which they were made.
    """
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        left = name in ("cell", "hours from")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for cell in cells:
        if cell.cost.source == NOT_APPLICABLE:
            skipped = Text(NOT_APPLICABLE, "dim")
            table.add_row(Text(cell.title, "dim"), "", "", "", "", "", skipped)
            continue
        numbers = _numbers(cell.rows, cell.cost)
        table.add_row(Text(cell.title), str(cell.rows), *numbers, cell.cost.source)
    run = [cell for cell in cells if cell.cost.source != NOT_APPLICABLE]
    return Group(table, *map(Text, [_sum(run), *_notes(run, settings)]))


def forecast_lines(cell: CellEstimate, settings: PlanSettings) -> list[str]:
    """Return the lines on the cost of a single cell."""
    nfe, passes, hours, size = _numbers(cell.rows, cell.cost)
    source = cell.cost.detail if cell.cost.source == CALLS_HERE else cell.cost.source
    why = f": {cell.cost.missing}" if cell.cost.missing else ""
    return [
        f"passes   {passes} (forward + backward), of them {nfe} forward",
        f"hours    {hours} of one worker for the solver alone, from {source}{why}",
        f"disk     {size} MiB",
        *(f"         {note}" for note in _notes([cell], settings)),
    ]


def _sum(run: Sequence[CellEstimate]) -> str:
    nfe, passes, hours, size = (
        _significant(
            pd.Series([cell.rows * getattr(cell.cost, name) for cell in run], dtype=float).sum()
            / unit
        )
        for name, unit in (("nfe", 1), ("passes", 1), ("seconds", 3600), ("size", 2**20))
    )
    words = (
        f"Estimate: {len(run)} cells, {sum(cell.rows for cell in run)} rows, {nfe} network "
        f"evaluations, {passes} passes (forward + backward), {hours} hours for the solvers alone, "
        f"{size} MiB on disk"
    )
    left_out = [
        f"without the {name} of {count} cells"
        for name, key in (("passes", "passes"), ("hours", "seconds"))
        if (count := sum(math.isnan(getattr(cell.cost, key)) for cell in run))
    ]
    return ", ".join([words, *left_out]) + "."


def _notes(run: Sequence[CellEstimate], settings: PlanSettings) -> list[str]:
    """Return where the figures are from, and each reason for a missing one once."""
    counted = any(
        cell.cost.passes == cell.cost.passes and cell.cost.source != OWN_ROWS for cell in run
    )
    return [
        *([_ON_PASSES] if counted else []),
        *_on_hours(run, settings),
        _ON_DISK,
        _on_workers(run),
        *(f"Not measured, {where}: {reason}" for reason, where in _reasons(run).items()),
    ]


_ON_PASSES = (
    "Passes: counted, by running each solver once on a stand-in network that costs nothing "
    "(CoPaint's line search takes a few more or fewer)."
)
_ON_DISK = (
    "Disk: shards of as many rows, with PNG files as large as the originals; uncompressed where "
    "the originals are not here."
)


def _on_hours(run: Sequence[CellEstimate], settings: PlanSettings) -> list[str]:
    """Return a note for every source of hours."""
    sources = {cell.cost.source for cell in run}
    calls = "; ".join(
        dict.fromkeys(
            f"{cell.prior}: {cell.cost.detail}" for cell in run if cell.cost.source == CALLS_HERE
        )
    )
    notes = {
        CALLS_HERE: f"Hours: passes times the seconds of a call here, within "
        f"max_seconds={settings.max_seconds:g} and max_memory={settings.memory / 2**30:.1f}GiB "
        f"({calls}). Expect half to twice the hours on an idle machine. At batch 1, small networks "
        "and GPUs are slower per sample than in a run.",
        "seconds_pass": f"Hours: passes times seconds_pass={settings.seconds_pass or 0:g}; calls "
        "of an autoencoder are not counted.",
        "timings": "Hours: passes times the seconds of a pass in the rows of "
        f"{settings.timings} with the same prior.",
        PRINTED: "Hours from VIPaint, Table 5: as printed for an A6000, because the network could "
        "not be called here.",
    }
    return [note for source, note in notes.items() if source in sources]


def _on_workers(run: Sequence[CellEstimate]) -> str:
    workers = max((cell.workers for cell in run), default=1)
    several = f" The run has {workers} workers." if workers > 1 else ""
    return (
        "Hours are the time of the solvers on one worker like this one. Metrics, loading, and the "
        "measurement and file of every chunk come on top; with small networks they can take "
        f"several times as long.{several}"
    )


def _reasons(run: Sequence[CellEstimate]) -> dict[str, str]:
    """Return the data, prior and number of cells for every reason for missing hours."""
    cells: dict[str, list[CellEstimate]] = {}
    for cell in run:
        if cell.cost.missing:
            cells.setdefault(cell.cost.missing, []).append(cell)
    return {
        reason: f"data={','.join(dict.fromkeys(cell.data for cell in some))} "
        f"prior={','.join(dict.fromkeys(cell.prior for cell in some))} "
        f"({len(some)} cell{'s'[: len(some) != 1]})"
        for reason, some in cells.items()
    }


def _numbers(rows: int, cost: RowCost) -> list[str]:
    return [
        _significant(rows * value)
        for value in (cost.nfe, cost.passes, cost.seconds / 3600, cost.size / 2**20)
    ]


def _significant(value: float) -> str:
    if value != value:
        return "?"
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.2g}"
