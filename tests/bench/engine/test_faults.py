"""What a run does when memory, time, a worker or a person gives out."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.bench.harness import assert_same_rows, bench, planned, rows, run

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import DeviceLost, UserError
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.solvers import blended

ROOT = Path(__file__).resolve().parents[3]
BLENDED = blended.Blended
DRAW = BLENDED.draw


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Lets a function of ``(obs, prior)`` do something before every call of the solver."""

    def before(act: Callable[..., None]) -> None:
        def draw(self, obs, prior, noise):
            act(obs, prior)
            return DRAW(self, obs, prior, noise)

        monkeypatch.setattr(BLENDED, "draw", draw)

    return before


def work(overrides: list[str]) -> CellPlan:
    """What a run does, without its tables."""
    plan, worker = planned(overrides), Worker("cpu", 1)
    for chunk in plan.chunks:
        worker.run(plan, chunk)
    return plan


def no_more_than(rows: int) -> Callable[..., None]:
    def act(obs, prior):
        if obs.n > rows:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {obs.n} rows")

    return act


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fits", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_that_does_not_fit_gives_the_rows_of_a_smaller_one(
    command, drawing, fits: int
) -> None:
    """The very rows of an undisturbed run with ``batch=`` what fits, the recorded batch size
    included."""
    small = work(command("blended", f"batch={fits}", out="small"))
    drawing(no_more_than(fits))
    halved = work(command("blended", "batch=12", out="halved"))
    assert halved.padded == 6
    assert (rows(halved)["padded_batch"] == fits).all()
    assert_same_rows(small, halved)


def test_every_chunk_begins_with_the_planned_batch(command, drawing) -> None:
    """What one chunk could not hold decides nothing about the next, or rows would depend on their
    order."""
    calls = iter(range(99))
    drawing(lambda obs, prior: no_more_than(2)(obs, prior) if next(calls) == 0 else None)
    table = rows(work(command()))
    assert (table["status"] == "ok").all()
    assert table["padded_batch"].value_counts().to_dict() == {4: 10, 2: 4}


def test_what_does_not_fit_alone_is_an_oom_row_and_its_neighbours_are_not(command, drawing) -> None:
    whole = work(command("blended", "batch=1", out="whole"))
    heavy = Session(whole.cell.config, "cpu").measure(["3.png"]).y[0]
    drawing(
        lambda obs, prior: no_more_than(0 if any(torch.equal(y, heavy) for y in obs.y) else 4)(
            obs, prior
        )
    )
    table = rows(work(command("blended", "batch=8")))
    bad = table["image_id"] == "3.png"
    assert (table[bad]["status"] == "oom").all() and table[bad]["message"].str.contains(
        "1 rows"
    ).all()
    table, whole = table[table["padded_batch"] == 1], rows(whole)[:8]
    assert table["image_id"].tolist() == whole["image_id"].tolist(), (
        "the chunk of four images and no other"
    )
    good = ~bad[table.index]
    assert table[good].equals(whole[good])


def test_host_memory_counts_too(command, drawing) -> None:
    def act(obs, prior):
        if obs.n > 1:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: ..."
            )

    drawing(act)
    assert (rows(work(command()))["padded_batch"] == 1).all()


def test_the_leaderboard_says_that_a_batch_was_smaller(command, drawing) -> None:
    assert not any(
        "memory" in note for note in leaderboard.build(run(command()).study).attrs["notes"]
    )
    drawing(no_more_than(2))
    study = run(command("blended", out="halved")).study
    (note,) = (note for note in leaderboard.build(study).attrs["notes"] if "memory" in note)
    assert note.startswith("Memory ran out for 14 of 14 rows") and "not bit for bit" in note


# -- time ------------------------------------------------------------------------------------------


def test_a_chunk_that_takes_too_long_becomes_timeout_rows(command, drawing, monkeypatch) -> None:
    """A clock that a test turns: every network evaluation of the second chunk takes an hour."""
    healthy = rows(work(command(out="healthy")))
    now, hours = [0.0], [0]
    monkeypatch.setattr("posterior_bench.bench.engine.limits.time.monotonic", lambda: now[0])
    calls = iter(range(99))

    def act(obs, prior):
        if next(calls) == 1:
            denoise = prior.denoise

            def slow(*arguments, **more):
                now[0] += 3600
                hours[0] += 1
                return denoise(*arguments, **more)

            prior.denoise = slow
        else:
            vars(prior).pop("denoise", None)

    drawing(act)
    table = rows(work(command("blended", "timeout=9000")))
    late = table["status"] == "timeout"
    # the third call is the first that begins too late
    assert late.sum() == 4 and hours[0] == 3
    assert set(table[late]["message"]) == {
        "TimeoutExceeded: the chunk took longer than timeout=9000 seconds"
    }
    assert table[~late].equals(healthy[~late])


@pytest.mark.parametrize("timeout", ["0", "-1", "inf", "soon", "true"])
def test_timeouts_that_mean_nothing_are_refused(command, timeout: str) -> None:
    with pytest.raises(UserError, match="timeout="):
        run(check(command("blended", f"timeout={timeout}")))


# -- workers that cannot start ---------------------------------------------------------------------


def test_a_worker_that_cannot_load_stops_the_study(command, tmp_path, monkeypatch) -> None:
    load = Session.__init__

    def broken(self, config, device, prior=None):
        if (tmp_path / "study" / "cells").exists():
            raise RuntimeError("CUDA driver initialization failed")
        load(self, config, device, prior)

    monkeypatch.setattr(Session, "__init__", broken)
    with pytest.raises(
        UserError,
        match="no worker can start on cpu: RuntimeError: CUDA driver initialization failed",
    ):
        run(command("blended", "draws=3"))
    assert not list((tmp_path / "study").rglob("*.parquet"))


def test_a_lost_device_stops_the_run_and_the_same_command_does_the_rest(command, drawing) -> None:
    calls = iter(range(99))

    def act(obs, prior):
        if next(calls) == 1:
            raise RuntimeError(
                "CUDA error: an illegal memory access was encountered\nCompile with ..."
            )

    drawing(act)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        run(command())
    assert rows(planned(command()))["status"].value_counts().to_dict() == {"ok": 4}
    outcome = run(command())
    assert outcome.good and outcome.counts == {"ok": outcome.plan.rows()}


# -- the circuit breaker ---------------------------------------------------------------------------


def test_a_cell_whose_first_rows_fail_alike_is_stopped(
    command, drawing, monkeypatch, capsys
) -> None:
    from posterior_bench.bench.cli.finish import finish

    calls = iter(range(99))

    def act(obs, prior):
        raise ArithmeticError(f"cursed {next(calls)}")

    drawing(act)
    outcome = run(command())
    assert len(rows(outcome.plan)) == 8 and not outcome.good
    assert not finish([outcome])
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "stopped after 8 rows" in said
        and "cursed 0" in said
        and "retry=true" in said
    )
    # the same command says so again and does nothing; the mistake mended, retry=true does all
    again = run(command())
    assert again.stopped == outcome.stopped and next(calls) == 2 and len(rows(again.plan)) == 8
    assert len(rows(run(command("blended", "retry=true")).plan)) == 8
    monkeypatch.setattr(BLENDED, "draw", DRAW)
    assert run(command("blended", "retry=true")).good
    assert_same_rows(run(command(out="healthy")).plan, outcome.plan)


@pytest.mark.parametrize("messages", ["different", "one good", "accepted"])
def test_a_cell_goes_on_where_failures_differ_or_are_accepted(
    command, drawing, messages: str
) -> None:
    calls = iter("abcdefgh")

    def act(obs, prior):
        letter = next(calls)
        if messages != "one good" or letter != "a":
            raise ArithmeticError("cursed" + letter * (messages == "different"))

    drawing(act)
    outcome = run(command("blended", *(["accept=[error]"] if messages == "accepted" else [])))
    assert len(rows(outcome.plan)) == 14 and not outcome.stopped
    assert outcome.good == (messages == "accepted")


# -- being stopped ---------------------------------------------------------------------------------

SLEEPY = '''
import time
from dataclasses import dataclass
from typing import ClassVar
from posterior_bench.solvers.base import Card, Sampler

@dataclass(frozen=True)
class Sleepy(Sampler):
    """Sleeps, then returns what was observed.

    Parameters
    ----------
    seconds : float, default 0.3
        Sleep.
    """

    card: ClassVar[Card] = Card(title="Sleepy", paper="none", equations="none")
    needs: ClassVar[frozenset[str]] = frozenset({"mask", "pixel"})
    seconds: float = 0.3

    def draw(self, obs, prior, noise):
        time.sleep(self.seconds)
        return obs.y
'''


@pytest.fixture
def sleepy(command, tmp_path: Path) -> list[str]:
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    rest = [o for o in command() if not o.startswith("solver")]
    return [f"solver={tmp_path / 'sleepy.py'}:Sleepy", *rest, "draws=1", "batch=1"]


@pytest.fixture
def started(sleepy: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has stored its first shard."""
    # a shell in the background hands on SIGINT ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *sleepy],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        while not list(tmp_path.rglob("*.parquet")) and process.poll() is None:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_stops_a_run_which_says_how_to_continue(
    started, sleepy, number: int, code: int
) -> None:
    started.send_signal(number)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == code, said
    assert len(said.splitlines()) == 1
    said_command = re.fullmatch(
        r"bench: interrupted; .* To continue: python -m bench (.*)\n", said
    )[1]
    plan = planned(check(sleepy))
    before = {path: path.stat().st_mtime_ns for path in plan.store.shards()}
    assert 1 <= len(before) < 7 and not list(plan.folder.rglob(".*.tmp"))
    assert not list((plan.folder / "alive").iterdir())
    assert bench(*shlex.split(said_command)) == 0
    assert len(rows(plan)) == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before, (
        "what was stored was done again"
    )


def test_a_worker_on_a_signal_leaves_the_rows_of_others(command) -> None:
    """Ctrl-C in the middle of a chunk: no row of it is stored, and none of an earlier one is
    lost."""
    plan = planned(command())
    worker, stop = Worker("cpu", 1), KeyboardInterrupt()
    worker.run(plan, plan.chunks[0])
    before = rows(plan)

    def interrupted(*arguments):
        raise stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLENDED, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.run(plan, plan.chunks[1])
    pd.testing.assert_frame_equal(rows(plan), before)
