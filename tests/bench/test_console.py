"""What a person sees while a study runs: on a terminal, in a pipe, and when asked to be quiet."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench import console
from bench.plan import Chunk
from tests.bench.harness import planned

Command = Callable[..., list[str]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """Makes ``console.out`` a terminal, or a pipe, whose text can be read; nothing counts as run before."""

    def make(is_terminal: bool) -> io.StringIO:
        text = io.StringIO()
        drawn = Console(file=text, force_terminal=is_terminal, width=140, highlight=False, color_system=None)
        monkeypatch.setattr(console, "out", drawn)
        monkeypatch.setattr(console, "SWEEP", console.Sweep())
        return text

    return make


def ran(command: list[str], quiet: bool = False) -> None:
    """A cell of seven images and two draws, whose last chunk fails."""
    plan = planned(command)
    rows = [{"cell": plan.cell.name, "image_id": i, "draw": 0, "status": "oom", "message": "no memory"} for i in "ab"]
    with console.progress(plan, plan.chunks, quiet) as advance:
        for chunk in plan.chunks[:-1]:
            advance(chunk, {"ok": 2 * len(chunk.images)})
        plan.store.write("last", rows)
        advance(plan.chunks[-1], {"oom": 2})


def test_a_terminal_keeps_a_line_per_cell_with_the_reason(
    command: Command, terminal: Callable[[bool], io.StringIO]
) -> None:
    text = terminal(True)
    console.SWEEP.cells = 3
    ran(command("blended"))
    shown = text.getvalue()
    assert "0 of 3 cells done, 2 after this one" in shown and "14/14" in shown
    (line,) = [line for line in shown.splitlines() if "✗" in line]
    assert "blended" in line and "14 rows in" in line and line.rstrip().endswith("2 oom: no memory")


def test_a_pipe_gets_one_plain_line_and_quiet_none(command: Command, terminal: Callable[[bool], io.StringIO]) -> None:
    text = terminal(False)
    ran(command("blended"))
    (line,) = text.getvalue().splitlines()
    assert "14 rows in" in line and line.rstrip().endswith("2 oom") and "\x1b" not in line
    text = terminal(True)
    ran(command("blended", out="other"), quiet=True)
    assert text.getvalue() == ""


def test_the_time_ahead_is_that_of_the_cells_so_far() -> None:
    sweep = console.Sweep(cells=10, there=2, took=[30.0, 90.0])
    assert sweep.ahead() == "4 of 10 cells done, 5 after this one, about 5 min"
    assert console.Sweep(cells=10).ahead() == "0 of 10 cells done, 9 after this one"
    assert console.Sweep(cells=3, took=[1.0, 1.0]).ahead() == ""


def test_a_title_with_brackets_is_no_markup(terminal: Callable[[bool], io.StringIO]) -> None:
    text = terminal(True)
    identity = {"solver": "dps", "variant": "betas=[0.9, 0.99]", "data": "fashion", "mask": "box"}
    cell = SimpleNamespace(identity=identity, draws=1)
    chunk = Chunk("one", ["a"])
    plan = SimpleNamespace(cell=cell, chunks=[chunk])
    with console.progress(plan, [chunk], quiet=False) as advance:  # type: ignore[arg-type]
        advance(chunk, {"ok": 1})
    assert "✓ dps  betas=[0.9, 0.99]  fashion  box" in text.getvalue()
