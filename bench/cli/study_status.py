"""How far a study is, read from its folder alone, while it runs or after it died."""

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
"""The rate is that of the last quarter of an hour of work: cells of one study differ in cost."""


@dataclass(frozen=True)
class CellStatus:
    """One cell: what it is called, how many of its rows are stored, which failed and why, who works
    on it.

    ``stored`` holds the times at which shards were written and the number of rows of each.
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
        """``done``: all rows are stored. ``running`` and ``stalled``: by its workers' signs.
        ``waiting``: the rest.
        """
        if self.rows >= self.planned:
            return "done"
        if any(worker.fresh for worker in self.workers):
            return "running"
        return "stalled" if self.workers else "waiting"


def read(study: Path) -> list[CellStatus]:
    """The planned cells of a study, by title. Raises UserError where there is none."""
    return sorted((_cell(path) for path in planned_cells(study)), key=lambda cell: cell.title)


def _cell(path: Path) -> CellStatus:
    plan = read_cell(path)
    identity, chunks = plan["identity"], plan["chunks"]
    draws = int(identity["draws"])
    store = RowStore(path.parent)
    frame = store.read(["status", "message"])
    failed = frame[frame["status"] != "ok"]
    reason = (
        "" if failed.empty else str((failed["status"] + ": " + failed["message"]).mode().iloc[0])
    )
    return CellStatus(
        title="  ".join(
            str(identity[k])
            for k in ("solver", "variant", "data", "mask", "operator")
            if identity[k]
        ),
        planned=count_rows(chunks, draws),
        rows=len(frame),
        failed=len(failed),
        reason=reason,
        workers=beats(path.parent),
        # when the chunks of a pack were finished is no longer known
        stored=[
            (_written(file), Chunk(file.stem, chunks.get(file.stem, ())).rows(draws))
            for file in store.shards()
        ],
    )


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def rate(cells: Sequence[CellStatus]) -> float:
    """Rows per second while there was work: over the last :data:`_WINDOW_SECONDS` before the latest
    shard.

    The first shard of the window only starts the clock: when its own work began is not known. 0
    with fewer than two.
    """
    stored = sorted(pair for cell in cells for pair in cell.stored)
    if len(stored) < 2:
        return 0.0
    times, counts = np.array([t for t, _ in stored]), np.array([n for _, n in stored])
    recent = times >= times[-1] - _WINDOW_SECONDS
    span = times[-1] - times[recent][0]
    return float(counts[recent][1:].sum() / span) if span > 0 else 0.0


def report(cells: Sequence[CellStatus]) -> Group:
    """A line per cell and a summary."""
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
    """Cells by state, rows, rate, time left."""
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
