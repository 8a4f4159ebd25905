"""How far a study is, read from its folder alone, while it runs or after it has stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from posterior_bench.bench.core.terminal import span
from posterior_bench.bench.engine.heartbeat import Beat, beats
from posterior_bench.bench.engine.plan import Chunk, count_rows
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import planned_cells, read_cell

STATES = ("running", "stalled", "waiting", "done")
_WINDOW_SECONDS = 900.0
"""The rate is measured over this time before the latest shard: cells of a study differ in cost."""


@dataclass(frozen=True)
class CellStatus:
    """The state of one cell.

    Parameters
    ----------
    title : str
        Solver, data, mask and operator.
    planned, rows, failed : int
        Number of rows that are planned, stored, and stored with another status than ok.
    reason : str
        Status and message of the most frequent failure; empty if no row failed.
    workers : sequence of Beat
        The latest signs of life of the workers that have begun, but not ended, a chunk.
    stored : sequence of (float, int)
        Of every shard, the time at which it was written and its number of rows.
    """

    title: str
    planned: int
    rows: int
    failed: int
    reason: str
    workers: Sequence[Beat]
    stored: Sequence[tuple[float, int]]

    @property
    def state(self) -> str:
        """One of :data:`STATES`.

        ``done``: all rows are stored. ``running``: a worker has given a sign of life recently.
        ``stalled``: its workers are silent. ``waiting``: it has no worker.
        """
        if self.rows >= self.planned:
            return "done"
        if any(worker.fresh for worker in self.workers):
            return "running"
        return "stalled" if self.workers else "waiting"


def read(study: Path) -> list[CellStatus]:
    """Return the planned cells of a study, sorted by title.

    Raises
    ------
    UserError
        If the folder holds no planned cell.
    """
    return sorted((_read_cell(path) for path in planned_cells(study)), key=lambda cell: cell.title)


def _read_cell(path: Path) -> CellStatus:
    plan = read_cell(path)
    identity, chunks = plan["identity"], plan["chunks"]
    draws = int(identity["draws"])
    store = RowStore(path.parent)
    frame = store.read(["status", "message"])
    failed = frame[frame["status"] != "ok"]
    reason = ""
    if not failed.empty:
        reason = str((failed["status"] + ": " + failed["message"]).mode().iloc[0])
    keys = ("solver", "variant", "data", "mask", "operator")
    return CellStatus(
        title="  ".join(str(identity[key]) for key in keys if identity[key]),
        planned=count_rows(chunks, draws),
        rows=len(frame),
        failed=len(failed),
        reason=reason,
        workers=beats(path.parent),
        # the times at which the chunks of a compacted file were written are lost
        stored=[
            (_time_written(file), Chunk(file.stem, chunks.get(file.stem, ())).rows(draws))
            for file in store.shards()
        ],
    )


def _time_written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def rate(cells: Sequence[CellStatus]) -> float:
    """Return the rows per second in the last quarter of an hour before the latest shard.

    The first shard of that time only starts the clock, because it is unknown when its work began.
    With fewer than two shards the rate is 0.
    """
    stored = sorted(pair for cell in cells for pair in cell.stored)
    if len(stored) < 2:
        return 0.0
    times, counts = np.array([t for t, _ in stored]), np.array([n for _, n in stored])
    recent = times >= times[-1] - _WINDOW_SECONDS
    span = times[-1] - times[recent][0]
    return float(counts[recent][1:].sum() / span) if span > 0 else 0.0


def report(cells: Sequence[CellStatus]) -> Group:
    """Return a table with a line per cell, and the summary below it."""
    table = Table(box=None, pad_edge=False)
    for name in ("cell", "state", "rows", "failed", "worker"):
        table.add_column(name, justify="right" if name in ("rows", "failed") else "left")
    colours = {"running": "cyan", "stalled": "yellow", "waiting": "dim", "done": "green"}
    for cell in cells:
        table.add_row(
            Text(cell.title),
            Text(cell.state, colours[cell.state]),
            f"{cell.rows}/{cell.planned}",
            Text(f"{cell.failed}  {cell.reason}", "red") if cell.failed else "0",
            Text(", ".join(_worker(beat) for beat in cell.workers)),
        )
    return Group(table, Text(summary(cells)))


def _worker(beat: Beat) -> str:
    state = f"for {span(beat.working)}" if beat.fresh else f"silent for {span(beat.silent)}"
    return f"{beat.worker} {state}"


def summary(cells: Sequence[CellStatus]) -> str:
    """Say how many cells are in which state, how many rows are stored, and how long it takes."""
    states = [cell.state for cell in cells]
    planned, rows = sum(cell.planned for cell in cells), sum(cell.rows for cell in cells)
    words = [
        ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
        + " of the planned cells",
        f"{rows} of {planned} rows, {sum(cell.failed for cell in cells)} failed",
    ]
    per_second = rate(cells)
    if per_second:
        words.append(f"{60 * per_second:.3g} rows per minute")
        if rows < planned and "running" in states:
            words.append(f"{span((planned - rows) / per_second)} left at that rate")
    if rows < planned and "running" not in states:
        words.append("nobody is working on it; give the command of the run again to continue")
    return "; ".join(words)
