"""What a person sees while a study runs: a progress bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Eta

from bench.plan import CellPlan, Chunk

_PLAIN_WIDTH = 160
"""Columns of a table in a file or pipe, where there is no window to fit."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Advance = Callable[[Chunk, Mapping[str, int]], None]


def title(plan: CellPlan) -> str:
    """``vipaint2  fashion  rotated`` and what sets this cell apart."""
    identity = plan.cell.identity
    words = [str(identity[k]) for k in ("solver", "variant", "data", "mask") if identity[k]]
    return "  ".join(words)


@contextmanager
def progress(plan: CellPlan, chunks: Sequence[Chunk], quiet: bool) -> Iterator[Advance]:
    """Counts rows as chunks are stored; failures are said at once."""
    rows = sum(len(chunk.images) for chunk in chunks) * plan.cell.draws
    total = sum(len(chunk.images) for chunk in plan.chunks) * plan.cell.draws
    seen: dict[str, int] = {}
    start = time.monotonic()

    def note(counts: Mapping[str, int]) -> str:
        for status, n in counts.items():
            seen[status] = seen.get(status, 0) + n
        return "  ".join(f"{n} {status}" for status, n in seen.items() if status != "ok")

    if quiet:
        yield lambda chunk, counts: None
        return
    if not rows:
        out.print(f"{title(plan)}: all {total} rows are there")
        yield lambda chunk, counts: None
        return
    if not out.is_terminal:

        def count(chunk: Chunk, counts: Mapping[str, int]) -> None:
            note(counts)

        yield count
        failures = note({})
        out.print(f"{title(plan)}: {rows} rows in {time.monotonic() - start:.0f} s  {failures}".rstrip())
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        Eta(),
        TextColumn("[red]{task.fields[failures]}"),
    )
    with Progress(*columns, console=out) as bar:
        task = bar.add_task(title(plan), total=total, completed=total - rows, failures="")

        def advance(chunk: Chunk, counts: Mapping[str, int]) -> None:
            bar.update(task, advance=len(chunk.images) * plan.cell.draws, failures=note(counts))

        yield advance
