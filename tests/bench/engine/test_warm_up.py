"""The rehearsal before the clock: once for each size, with few steps, and no row shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.bench.harness import assert_same_rows, planned

from posterior_bench.bench.engine import warm_up
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.short_solver import FEW
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.solvers.dps import DPS


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of every run of the solver."""
    ran: list[int] = []
    draw = DPS.draw

    def counted(self: DPS, *arguments: object) -> object:
        ran.append(self.steps)
        return draw(self, *arguments)

    monkeypatch.setattr(DPS, "draw", counted)
    return ran


def work(overrides: list[str]) -> CellPlan:
    plan, worker = planned(overrides), Worker("cpu", 1)
    for chunk in plan.chunks:
        worker.run(plan, chunk)
    return plan


@pytest.fixture
def cell(command: Callable[..., list[str]]) -> Callable[[str], list[str]]:
    """A cell of three chunks."""
    return lambda out: command(
        "dps", "solver.steps=9", "data.images=3", "draws=1", "batch=1", out=out
    )


def test_a_rehearsal_has_few_steps_and_changes_no_row(cell, steps, monkeypatch) -> None:
    plain = work(cell("plain"))
    assert steps == [9] * 3, "nothing is rehearsed on the CPU"
    monkeypatch.setattr(warm_up, "_starts_slowly", lambda session: True)
    steps.clear()
    rehearsed = work(cell("rehearsed"))
    assert steps == [FEW, 9, 9, 9]
    assert_same_rows(plain, rehearsed)


def test_what_fails_in_the_rehearsal_is_left_to_the_run(cell, steps, monkeypatch) -> None:
    plain = work(cell("plain"))
    monkeypatch.setattr(warm_up, "_starts_slowly", lambda session: True)

    def fail(solver: DPS) -> DPS:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(warm_up, "shortened", fail)
    assert_same_rows(plain, work(cell("rehearsed")))
