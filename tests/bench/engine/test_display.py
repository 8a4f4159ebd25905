"""What a person sees while a study runs: on a terminal, in a pipe, and when asked to be quiet."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.bench.harness import planned

from posterior_bench.bench.cli.announce import first_line
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core import terminal as core_terminal
from posterior_bench.bench.engine import display, progress, pulse
from posterior_bench.bench.engine.plan import Chunk
from posterior_bench.bench.engine.worker import Worker

Command = Callable[..., list[str]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """Makes ``terminal.out`` a terminal, or a pipe, whose text can be read; nothing counts as run
    before."""

    def make(is_terminal: bool) -> io.StringIO:
        text = io.StringIO()
        drawn = Console(
            file=text, force_terminal=is_terminal, width=140, highlight=False, color_system=None
        )
        monkeypatch.setattr(core_terminal, "out", drawn)
        monkeypatch.setattr(display, "SWEEP", display.Sweep())
        monkeypatch.setattr(display, "LINE_SECONDS", (math.inf, math.inf))
        return text

    return make


def ran(command: list[str], quiet: bool = False) -> None:
    """A cell of seven images and two draws, whose last chunk fails."""
    plan = planned(command)
    rows = [
        {"cell": plan.cell.name, "image_id": i, "draw": 0, "status": "oom", "message": "no memory"}
        for i in "ab"
    ]
    with display.progress(plan, plan.chunks, quiet) as advance:
        for chunk in plan.chunks[:-1]:
            advance(chunk, {"ok": 2 * len(chunk.images)})
        plan.store.write("last", rows)
        advance(plan.chunks[-1], {"oom": 2})


def test_a_terminal_keeps_a_line_per_cell_with_the_reason(
    command: Command, terminal: Callable[[bool], io.StringIO]
) -> None:
    text = terminal(True)
    display.SWEEP.cells = 3
    ran(command("blended"))
    shown = text.getvalue()
    assert "0 of 3 cells done, 2 after this one" in shown and "14/14" in shown
    (line,) = [line for line in shown.splitlines() if "✗" in line]
    assert "blended" in line and "14 rows in" in line and line.rstrip().endswith("2 oom: no memory")


def test_a_pipe_gets_one_plain_line_and_quiet_none(
    command: Command, terminal: Callable[[bool], io.StringIO]
) -> None:
    text = terminal(False)
    ran(command("blended"))
    (line,) = text.getvalue().splitlines()
    assert "14 rows in" in line and line.rstrip().endswith("2 oom") and "\x1b" not in line
    text = terminal(True)
    ran(command("blended", out="other"), quiet=True)
    assert text.getvalue() == ""


def test_the_time_ahead_is_that_of_the_cells_so_far() -> None:
    sweep = display.Sweep(cells=10, there=2, took=[30.0, 90.0])
    assert sweep.ahead() == "4 of 10 cells done, 5 after this one, about 5 min"
    assert display.Sweep(cells=10).ahead() == "0 of 10 cells done, 9 after this one"
    assert display.Sweep(cells=3, took=[1.0, 1.0]).ahead() == ""


def test_a_title_with_brackets_is_no_markup(
    terminal: Callable[[bool], io.StringIO], monkeypatch
) -> None:
    text = terminal(True)
    identity = {"solver": "dps", "variant": "betas=[0.9, 0.99]", "data": "fashion", "mask": "box"}
    cell = SimpleNamespace(identity=identity, draws=1)
    chunk = Chunk("one", ["a"])
    plan = SimpleNamespace(cell=cell, chunks=[chunk], padded=1, rows=lambda chunks=(): 1)
    monkeypatch.setattr(progress, "_cost", lambda plan, stored: math.nan)
    with display.progress(plan, [chunk], quiet=False) as advance:  # type: ignore[arg-type]
        advance(chunk, {"ok": 1})
    assert "✓ dps  betas=[0.9, 0.99]  fashion  box" in text.getvalue()


# -- within a chunk --------------------------------------------------------------------------------


def test_a_chunk_tells_its_passes_while_it_runs(command: Command) -> None:
    """12 steps for each of 4 rows: before every call the worker tells what has been spent, and at
    the end all is."""
    plan = planned(command("blended"))
    heard: list[tuple[str, int]] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        pulse.listening(lambda chunk, passes: heard.append((chunk, passes))),
    ):
        patch.setattr(pulse, "EVERY_SECONDS", 0.0)
        Worker("cpu", 1).run(plan, plan.chunks[1])
    assert heard == [(plan.chunks[1].name, 4 * call) for call in range(12)]
    assert pulse.passes() == 48


def test_passes_of_a_row_are_known_before_the_first_chunk(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a dry run: 12 steps are 12 passes. Then by the rows themselves; never by a run that takes
    too long."""
    monkeypatch.setattr(progress, "DRY_SECONDS", math.inf)
    monkeypatch.setattr(progress, "_KNOWN", {})
    plan = planned(command("blended"))
    assert progress.position(plan, plan.chunks).cost == 12
    Worker("cpu", 1).run(plan, plan.chunks[0])
    monkeypatch.setattr(progress, "_counted", lambda plan: pytest.fail("there are rows"))
    assert progress.position(plan, plan.chunks[1:]).cost == 12
    monkeypatch.undo()
    monkeypatch.setattr(progress, "_KNOWN", {})
    monkeypatch.setattr(progress, "DRY_SECONDS", -1.0)
    other = planned(command("blended", "solver.steps=13"))
    assert math.isnan(progress.position(other, other.chunks).cost)


def test_a_position_counts_the_rows_that_fill_up_a_batch(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven images, two at a time: the last chunk of one image runs as many rows as the others."""
    plan = planned(command("blended"))
    monkeypatch.setattr(progress, "_cost", lambda plan, stored: 12.0)
    at = progress.position(plan, plan.chunks)
    at.hear(plan.chunks[0].name, 24)
    assert at.done == 4 * 24 / 48
    at.hear(plan.chunks[0].name, 480)  # memory ran out, and the chunk is done again
    assert at.done == pytest.approx(0.99 * 4)
    for chunk in plan.chunks[:-1]:
        at.ended(chunk, ok=True)
    at.hear(plan.chunks[-1].name, 24)
    assert at.done == 12 + 2 * 24 / 48
    at.hear("another cell's", 1)
    assert at.passes == 24


def test_a_chunk_tells_what_a_row_takes_where_nobody_knew(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(command("blended"))
    monkeypatch.setattr(progress, "_KNOWN", {})
    monkeypatch.setattr(progress, "_cost", lambda plan, stored: math.nan)
    at = progress.position(plan, plan.chunks)
    at.hear(plan.chunks[0].name, 48)
    assert at.done == 0
    at.ended(plan.chunks[0], ok=True)
    assert (at.cost, at.done) == (12, 4)


def test_a_bar_moves_within_a_chunk_and_a_pipe_gets_lines(
    command: Command, terminal: Callable[[bool], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_cost", lambda plan, stored: 12.0)
    plan = planned(command("blended"))
    text = terminal(True)
    with display.progress(plan, plan.chunks, quiet=False):
        pulse.tell(plan.chunks[0].name, 36)
    assert " 3/14" in text.getvalue() and "36 passes" in text.getvalue()
    text = terminal(False)
    now = [0.0]
    monkeypatch.setattr(display, "LINE_SECONDS", (5.0, 30.0))
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with display.progress(plan, plan.chunks, quiet=False):
        for now[0] in (4.0, 6.0, 7.0, 35.9, 36.0):
            pulse.tell(plan.chunks[0].name, int(6 * now[0] / 6))
    lines = text.getvalue().splitlines()
    assert len(lines) == 3, "at 6 s, at 36 s, and the end"
    # 36 of 14 rows' 168 passes in 36 s
    assert "3 of 14 rows, 36 passes of the chunk at hand, about 2 min left" in lines[1]


def test_the_first_line_says_what_is_run_and_where(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, choices = compose(command("blended", "executor.device=cpu"))
    said = first_line(cfg, choices, 1)
    assert said.startswith("blended  folder  ") and said.endswith(
        ", 14 rows (7 images x 2 draws) on the CPU; loading"
    )
    assert first_line(cfg, choices, 3).startswith("3 cells; first blended  folder  ")
    cfg, choices = compose(command("blended", "executor=ray"))
    assert first_line(cfg, choices, 1).endswith(" on Ray workers of this machine; loading")
