"""What a person sees while a study runs: plain lines, and on a terminal one line per cell.

On a terminal a finished cell leaves a line, with the reason if rows failed. The running cell has a
bar and an ETA, which move with every pass of the network; below it stands how many cells are to
come and how long they may take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import TimeRemainingColumn as Eta
from rich.text import Text

from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.terminal import span
from posterior_bench.bench.engine import pulse

if TYPE_CHECKING:  # the first line of a run does not wait for pandas
    from posterior_bench.bench.engine.plan import CellPlan, Chunk
    from posterior_bench.bench.engine.progress import Position

    Advance = Callable[[Chunk, Mapping[str, int]], None]


@dataclass
class Sweep:
    """What this process was asked for: how many ``cells``, less those found not to apply.

    ``took`` holds the seconds of those that ran, ``there`` counts those that had all their rows
    before. ``begun``: the first line has been said.
    """

    cells: int = 1
    begun: bool = False
    there: int = 0
    took: list[float] = field(default_factory=list)

    def back_to(self, there: int, took: int) -> None:
        """Forget what was counted since: the same cell is run again, with more images."""
        self.there = there
        del self.took[took:]

    def ahead(self) -> str:
        """Return in words what comes after the running cell; empty for the last cell."""
        left = self.cells - self.there - len(self.took) - 1
        if left < 1:
            return ""
        words = f"{len(self.took) + self.there} of {self.cells} cells done, {left} after this one"
        return (
            f"{words}, about {span(left * sum(self.took) / len(self.took))}" if self.took else words
        )


SWEEP = Sweep()
LINE_SECONDS = (5.0, 30.0)
"""Where there is no terminal: when the first line of a long cell comes, and how often there is one
later."""


def title(plan: CellPlan) -> str:
    """``vipaint2  fashion  rotated`` and what sets this cell apart."""
    identity = plan.cell.identity
    words = [str(identity[k]) for k in ("solver", "variant", "data", "mask") if identity[k]]
    return "  ".join(words)


class _Failures:
    """Counts rows by status, and names the statuses that are no success."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def add(self, counts: Mapping[str, int]) -> str:
        """Count the rows of a chunk; return all failures so far, such as ``2 oom  1 nan``."""
        for status, n in counts.items():
            self.seen[status] = self.seen.get(status, 0) + n
        return str(self)

    def __str__(self) -> str:
        return "  ".join(f"{n} {status}" for status, n in self.seen.items() if status != "ok")


@contextmanager
def progress(plan: CellPlan, chunks: Sequence[Chunk], quiet: bool) -> Iterator[Advance]:
    """Show how far a cell is while the block runs.

    Rows are shown as they are done, as well as passes of the network within a chunk; failures are
    named at once.

    Yields
    ------
    callable
        To be called with every stored chunk and its number of rows per status.
    """
    if quiet:
        yield lambda chunk, counts: None
    elif not plan.rows(chunks):
        say_complete(title(plan), plan.rows())
        yield lambda chunk, counts: None
    else:
        with (_bar if terminal.out.is_terminal else _lines)(plan, chunks) as advance:
            yield advance


def say_complete(cell: str, rows: int) -> None:
    """Print that a cell had all its rows before."""
    SWEEP.there += 1
    words = f"all {rows} rows are there"
    shown = terminal.out.is_terminal
    terminal.out.print(_succeeded(cell, words) if shown else f"{cell}: {words}")


@contextmanager
def _lines(plan: CellPlan, chunks: Sequence[Chunk]) -> Iterator[Advance]:
    """Print lines now and then, for a file or a pipe."""
    # it brings a dry run of the solver, and with it torch
    from posterior_bench.bench.engine.progress import position

    rows, failures, start = plan.rows(chunks), _Failures(), time.monotonic()
    at = position(plan, chunks)
    lines = _Lines(title(plan), at, rows, start)

    def hear(chunk: str, passes: int) -> None:
        at.hear(chunk, passes)
        lines.show()

    def count(chunk: Chunk, counts: Mapping[str, int]) -> None:
        failures.add(counts)
        at.ended(chunk, "ok" in counts)
        lines.show()

    with pulse.listening(hear):
        yield count
    terminal.out.print(
        f"{title(plan)}: {rows} rows in {time.monotonic() - start:.0f} s  {failures}".rstrip()
    )


@contextmanager
def _bar(plan: CellPlan, chunks: Sequence[Chunk]) -> Iterator[Advance]:
    """Show a bar on a terminal, with an ETA and the cells that are to come."""
    # it brings a dry run of the solver, and with it torch
    from posterior_bench.bench.engine.progress import position

    rows, total, failures, start = plan.rows(chunks), plan.rows(), _Failures(), time.monotonic()
    at = position(plan, chunks)
    bar = Progress(*_columns(), console=terminal.out)
    with Live(Group(bar, Text(SWEEP.ahead(), "dim")), console=terminal.out, transient=True):
        task = bar.add_task(
            escape(title(plan)), total=total, completed=total - rows, failures="", passes=""
        )

        def move(chunk: str, passes: int) -> None:
            at.hear(chunk, passes)
            shown = f"  {at.passes} passes" if at.passes else ""
            bar.update(task, completed=total - rows + at.done, passes=shown)

        def advance(chunk: Chunk, counts: Mapping[str, int]) -> None:
            at.ended(chunk, "ok" in counts)
            named = failures.add(counts)
            bar.update(task, completed=total - rows + at.done, failures=named, passes="")

        with pulse.listening(move):
            yield advance
    seconds = time.monotonic() - start
    SWEEP.took.append(seconds)
    terminal.out.print(_ended(plan, f"{rows} rows in {span(seconds)}", str(failures)))


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows[dim]{task.fields[passes]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        Eta(),
        TextColumn("[red]{task.fields[failures]}"),
    )


@dataclass
class _Lines:
    """Lines in a file or pipe while a long cell runs; a short cell prints none."""

    title: str
    at: Position
    rows: int
    start: float
    due: float = LINE_SECONDS[0]

    def show(self) -> None:
        """Print a line, if it is time for one."""
        seconds = time.monotonic() - self.start
        if seconds < self.due:
            return
        self.due = seconds + LINE_SECONDS[1]
        # loads pandas: the first line of a run is printed before
        from posterior_bench.bench.engine.progress import left

        rest = left(seconds, self.at.done, self.rows)
        ahead = f", about {span(rest)} left" if rest == rest else ""
        passes = f", {self.at.passes} passes of the chunk at hand" if self.at.passes else ""
        terminal.out.print(
            f"{self.title}: {int(self.at.done)} of {self.rows} rows{passes}{ahead}", markup=False
        )


def _succeeded(cell: str, words: str) -> Text:
    return Text.assemble(("✓ ", "green"), cell, (f"  {words}", "dim"))


def _ended(plan: CellPlan, words: str, failures: str) -> Text:
    """Return the line that a cell leaves behind.

    If rows failed, the line gives the most frequent reason.
    """
    if not failures:
        return _succeeded(title(plan), words)
    failed = plan.store.read(["status", "message"]).query("status != 'ok'")["message"].mode()
    reason = f": {failed.iloc[0]}" if len(failed) else ""
    return Text.assemble(
        ("✗ ", "red"), title(plan), (f"  {words}", "dim"), (f"  {failures}{reason}", "red")
    )
