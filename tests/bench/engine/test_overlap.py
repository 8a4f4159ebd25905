"""Chunks that overlap: the order of events, the same rows, and failures as without."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from tests.bench.harness import assert_same_rows, planned, rows, run

from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core import signals
from posterior_bench.bench.core.errors import DeviceLost
from posterior_bench.bench.engine import overlap, solving
from posterior_bench.bench.engine.overlap import Overlapping, overlaps, scores_beside, why_not
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.priors.base import Prior
from posterior_bench.priors.execution import Execution
from posterior_bench.solvers.blended import Blended

BLENDED = Blended.draw
DRAW, READ, JUDGE = solving.draw, Session.read, solving.judge


def overlapping(plan: CellPlan) -> Overlapping:
    return Overlapping(Worker("cpu", 1), plan)


def ended(plan: CellPlan) -> list[tuple[str, dict[str, int]]]:
    return [(chunk.name, counts) for chunk, counts in overlapping(plan).run(plan.chunks)]


def plain(plan: CellPlan) -> list[tuple[str, dict[str, int]]]:
    worker = Worker("cpu", 1)
    return [(chunk.name, worker.run(plan, chunk)) for chunk in plan.chunks]


@pytest.fixture
def pair(command) -> Callable[..., tuple[CellPlan, CellPlan]]:
    """Two plans of one cell, in two studies."""

    def make(*more: str, solver: str = "blended") -> tuple[CellPlan, CellPlan]:
        return (
            planned(command(solver, *more, out="plain")),
            planned(command(solver, *more, out="overlapped")),
        )

    return make


@pytest.mark.parametrize(
    "more", [("draws=3", "batch=2"), ("batch=2", "metrics=[psnr,ssim,diversity]", "trace=true")]
)
def test_rows_and_the_order_of_chunks_are_the_same(pair, more) -> None:
    one, other = pair(*more)
    assert ended(other) == plain(one)
    assert_same_rows(one, other)


def test_a_fit_once_solver_has_the_same_rows(pair) -> None:
    one, other = pair("trace=true", solver="vipaint2")
    assert ended(other) == plain(one)
    assert_same_rows(one, other)


class Events:
    """What happened when, and gates at which a thread waits for another one's event."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.changed = threading.Condition()

    def add(self, event: str) -> None:
        with self.changed:
            self.seen.append(event)
            self.changed.notify_all()

    def wait_for(self, event: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: event in self.seen, timeout=60), (
                f"{event} has not happened beside this: {self.seen}"
            )


def test_the_next_chunk_is_read_and_the_last_one_stored_while_one_is_sampled(
    command, monkeypatch
) -> None:
    """A slow device: sampling ends only after the host has done its part beside it."""
    events, plan = Events(), planned(command())
    names = {chunk.images[0]: i for i, chunk in enumerate(plan.chunks)}
    last = len(plan.chunks) - 1
    finish = Overlapping._finish

    def slow_draw(session, measured, *more):
        at = names[measured.keys[0].image]
        events.add(f"sampling {at}")
        if at >= 2:
            events.wait_for(f"stored {at - 1}")
        if 1 <= at < last:
            events.wait_for(f"read {at + 1}")
        events.add(f"sampled {at}")
        return DRAW(session, measured, *more)

    def noted_read(self, images):
        originals = READ(self, images)
        events.add(f"read {names[images[0]]}")
        return originals

    def noted_finish(self, waiting):
        events.wait_for("sampling " + str(min(last, names[waiting.images[0]] + 1)))
        counts = finish(self, waiting)
        events.add(f"stored {names[waiting.images[0]]}")
        return counts

    for module in (solving, overlap):
        monkeypatch.setattr(module, "draw", slow_draw)
    monkeypatch.setattr(Session, "read", noted_read)
    monkeypatch.setattr(Overlapping, "_finish", noted_finish)
    assert [counts for _, counts in ended(plan)] == [{"ok": 4}] * last + [{"ok": 2}]
    order = events.seen.index
    for at in range(1, last):
        assert order(f"read {at + 1}") < order(f"sampled {at}"), "one is read ahead"
        if at > 1:
            assert order(f"read {at + 1}") > order(f"sampled {at - 1}"), "and no more than one"
        assert order(f"stored {at}") < order(f"sampled {at + 1}"), "one is finished behind"


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a stage fail on the third chunk, once or for ever: ``sick("draw", error)``."""

    def make(stage: str, error: Exception, times: int = 99) -> None:
        left = iter(range(times))

        def bad(image: str) -> bool:
            return image == "4.png" and next(left, None) is not None

        def drawing(session, measured, *more):
            if stage == "draw" and bad(measured.keys[0].image):
                raise error
            return DRAW(session, measured, *more)

        def reading(self, images):
            if stage == "read" and bad(images[0]):
                raise error
            return READ(self, images)

        def judging(drawn):
            if stage == "score" and bad(drawn.measured.keys[0].image):
                raise error
            return JUDGE(drawn)

        monkeypatch.setattr(Session, "read", reading)
        for module in (solving, overlap):
            monkeypatch.setattr(module, "draw", drawing)
            monkeypatch.setattr(module, "judge", judging)

    return make


BROKEN, FULL = ValueError("no such thing"), torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        *((stage, BROKEN) for stage in ("read", "draw", "score")),
        ("draw", FULL),
        *(pytest.param(stage, FULL, marks=pytest.mark.slow) for stage in ("read", "score")),
    ],
    ids=str,
)
def test_a_failure_becomes_the_rows_that_it_becomes_without(pair, sick, stage, error) -> None:
    one, other = pair()
    sick(stage, error)
    assert ended(other) == plain(one)
    assert_same_rows(one, other)
    failed = set(rows(other).query("status != 'ok'")["image_id"])
    assert failed == ({"4.png", "5.png"} if isinstance(error, ValueError) else {"4.png"})


@pytest.mark.parametrize("stage", ["draw", "score"])
def test_memory_that_runs_out_beside_another_chunk_changes_no_row(pair, sick, stage) -> None:
    """A chunk alone would have had enough, so it is computed alone, and so is the rest."""
    one, other = pair()
    plain(one)
    sick(stage, torch.OutOfMemoryError("CUDA out of memory."), times=1)
    pipeline = overlapping(other)
    names = [chunk.name for chunk, _ in pipeline.run(other.chunks)]
    assert names == [chunk.name for chunk in other.chunks] and pipeline.alone
    assert_same_rows(one, other)


@pytest.mark.parametrize("stage", ["draw", "score"])
def test_a_lost_device_ends_the_run_and_its_chunk_is_not_stored(command, sick, stage) -> None:
    plan, seen = planned(command()), []
    sick(stage, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(DeviceLost, match="give the same command again"):
        for chunk, _ in overlapping(plan).run(plan.chunks):
            seen.append(chunk.name)
    assert seen == [chunk.name for chunk in plan.chunks[:2]]
    assert plan.store.done() == {*seen}


def test_a_run_that_is_given_up_stores_nothing_more(command) -> None:
    plan = planned(command("blended", "batch=2"))
    running = overlapping(plan).run(plan.chunks)
    first = [next(running)[0].name for _ in range(2)]
    running.close()
    assert plan.store.done() == {*first}
    assert not [t for t in threading.enumerate() if t.name.startswith(("reader", "finisher"))]


def test_nothing_is_stored_after_a_signal(command, monkeypatch) -> None:
    plan = planned(command("blended", "batch=2"))

    def interrupted(session, measured, *more):
        if measured.keys[0].image == "3.png":
            signal.raise_signal(signal.SIGTERM)
        return DRAW(session, measured, *more)

    monkeypatch.setattr(overlap, "draw", interrupted)
    signals.heed_signals()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(overlapping(plan).run(plan.chunks))
    finally:
        signals.forget()
    images = {image for chunk in plan.chunks[:3] for image in chunk.images}
    stored = set(plan.store.read(["image_id"])["image_id"])
    assert {"0.png", "1.png"} <= stored <= images, "the chunk behind may be there, none later"


def test_code_of_other_people_never_overlaps(command, tmp_path) -> None:
    def session(*more: str) -> Session:
        lines = [line for line in command() if not line.startswith("solver.")]
        return Session(planned(check([*lines, *more])).cell.config, "cpu")

    ours = session()
    assert why_not(ours) == "" and scores_beside(ours)
    assert overlaps(True, ours) and not overlaps(None, ours) and not overlaps(False, ours)
    file = tmp_path / "own.py"
    file.write_text(
        "from posterior_bench.solvers.blended import Blended\n\n\nclass Own(Blended):\n    pass\n"
    )
    theirs = session(f"solver={file}:Own")
    assert "may change settings" in why_not(theirs) and not overlaps(True, theirs)


def test_scores_wait_for_a_solver_in_tf32(pair, monkeypatch) -> None:
    """The switch is one for the process: beside such a solver, scores would be of TF32 too."""
    one, other = pair()
    plain(one)
    pipeline, seen = overlapping(other), []
    pipeline.session.execution = Execution(precision="tf32")
    monkeypatch.setattr(Prior, "run_as", lambda *about: None)  # a closed form refuses it

    def slow(self, obs, prior, noise):
        assert torch.backends.cuda.matmul.allow_tf32
        time.sleep(0.05)
        return BLENDED(self, obs, prior, noise)

    def judging(drawn):
        seen.append((torch.backends.cuda.matmul.allow_tf32, threading.current_thread()))
        return JUDGE(drawn)

    monkeypatch.setattr(Blended, "draw", slow)
    for module in (solving, overlap):
        monkeypatch.setattr(module, "judge", judging)
    list(pipeline.run(other.chunks))
    assert seen == [(False, threading.main_thread())] * len(other.chunks)
    assert_same_rows(one, other)


def test_the_setting_of_the_executor(command) -> None:
    one = run(command("blended", out="one")).plan
    other = run(command("blended", "executor.overlap=true", out="other")).plan
    assert_same_rows(one, other)


def test_the_threads_beside_the_solver_compute_with_those_of_the_worker(
    command, monkeypatch
) -> None:
    """Bits depend on them; a new thread would take all cores."""
    plan, seen = planned(command("blended", "batch=2")), []

    def judging(drawn):
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))
        return JUDGE(drawn)

    monkeypatch.setattr(overlap, "judge", judging)
    list(Overlapping(Worker("cpu", 3), plan).run(plan.chunks[:3]))
    assert seen == [(3, True)] * 2
