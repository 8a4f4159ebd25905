"""Code of other people raises what it likes: a row says so, the rest goes on, and exit 0 means that
all is good."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.bench.harness import planned, plant, rows, run

from posterior_bench.bench.core import signals
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.foreign import MOST, Left, described, foreign
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.metrics.psnr import PSNR
from posterior_bench.solvers import blended

BLENDED = blended.Blended
DRAW = BLENDED.draw


@pytest.fixture
def heeding() -> Iterator[None]:
    """Signals as the command line handles them."""
    signals.heed_signals()
    yield
    signals.forget()


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Lets a function of the observation stand in for the solver; what it gives back is the output,
    unless None."""

    def replace(act: Callable[..., object]) -> None:
        def draw(self, obs, prior, noise):
            x = act(obs)
            return DRAW(self, obs, prior, noise) if x is None else x

        monkeypatch.setattr(BLENDED, "draw", draw)

    return replace


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Exiting(Exception):
    def __str__(self) -> str:
        sys.exit(0)


class Own(BaseException):
    pass


class Shouting(str):
    def splitlines(self, keepends=False):
        raise RuntimeError

    def __getitem__(self, key):
        raise RuntimeError


def raising(error: BaseException) -> Callable[..., object]:
    def act(obs: object) -> object:
        raise error

    return act


def leave(status: int) -> Callable[..., object]:
    return lambda obs: os._exit(status)


RAISED = {
    "exit 0": (raising(SystemExit(0)), "SystemExit: 0 (test_foreign.py:"),
    "exit 7": (raising(SystemExit(7)), "SystemExit: 7 ("),
    "os._exit": (leave(0), "SystemExit: os._exit(0) ("),
    "own": (raising(Own("mine")), "Own: mine ("),
    "generator": (raising(GeneratorExit()), "GeneratorExit: "),
    "iteration": (raising(StopIteration(3)), "StopIteration: 3 ("),
    "interrupt": (raising(KeyboardInterrupt("mine")), "KeyboardInterrupt: mine ("),
    "mute": (raising(Mute()), "Mute: (its text cannot be made: RuntimeError) ("),
    "exiting text": (raising(Exiting()), "Exiting: (its text cannot be made: SystemExit) ("),
    "surrogate": (raising(ValueError("a\ud800b")), r"ValueError: a\ud800b ("),
    "zero byte": (raising(ValueError("a\0b")), r"ValueError: a\x00b ("),
    "text of its own": (raising(ValueError(Shouting("loud"))), "ValueError: loud ("),
    "long": (raising(ValueError("x" * 10_000_000)), "ValueError: xxx"),
}


@pytest.mark.parametrize("kind", RAISED)
def test_whatever_a_solver_raises_is_a_row_and_the_next_chunk_runs(
    command, drawing, heeding, kind: str
) -> None:
    act, message = RAISED[kind]
    calls = iter(range(9))
    drawing(lambda obs: act(obs) if next(calls) == 0 else None)
    plan = planned(command("blended", "data.images=4", "solver.steps=2"))
    worker = Worker("cpu", 1)
    for chunk in plan.chunks:
        worker.run(plan, chunk)
    table = rows(plan)
    assert table["status"].tolist() == ["error"] * 4 + ["ok"] * 4
    (said,) = set(table["message"][:4])
    assert said.startswith(message) and len(said) < MOST + 40
    assert said.encode().decode() == said and said.isprintable()
    assert not plan.missing(), "the failed chunk would run again and again"


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()])
def test_what_a_metric_or_a_data_set_raises_is_a_row_too(
    command, heeding, monkeypatch, error: BaseException
) -> None:
    for owner, name in ((PSNR, "__call__"), (blended.Blended, "fit")):
        plan = planned(command("blended", "data.images=2", "solver.steps=2", out=name))
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, raising_method(error))
            assert Worker("cpu", 1).run(plan, plan.chunks[0]) == {"error": 4}
    plan = planned(command("blended", "data.images=2", "solver.steps=2", out="data"))
    worker = Worker("cpu", 1)
    monkeypatch.setattr(
        type(worker.session(plan.cell.config).images), "images", raising_method(error)
    )
    assert worker.run(plan, plan.chunks[0]) == {"error": 4}


def raising_method(error: BaseException) -> Callable[..., object]:
    def method(*arguments: object, **more: object) -> object:
        raise error

    return method


@pytest.mark.parametrize("value", [1 + 2j, "a word", None, torch.ones(2)])
def test_a_metric_that_gives_no_number_is_an_error_row(command, monkeypatch, value: object) -> None:
    """It could not be stored, so the chunk would run again at every start."""

    class Values:
        def __init__(self, count: int):
            self.count = count

        def tolist(self) -> list[object]:
            return [value] * self.count

    monkeypatch.setattr(PSNR, "__call__", lambda self, batch: Values(len(batch.raw)))
    plan = planned(command("blended", "data.images=2", "solver.steps=2"))
    assert Worker("cpu", 1).run(plan, plan.chunks[0]) == {"error": 4}
    (said,) = set(rows(plan)["message"])
    assert said.startswith(
        f"TypeError: metric 'psnr' gave {type(value).__name__} in place of a real number"
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda y: y.to(torch.complex64), "torch.complex64"),
        (lambda y: y.to(torch.int64), "torch.int64"),
        (lambda y: y > 0, "torch.bool"),
        (lambda y: y.to(torch.uint8), "torch.uint8"),
    ],
)
def test_an_output_that_is_not_real_is_refused_by_its_type(
    command, drawing, make, said: str
) -> None:
    drawing(lambda obs: make(obs.y))
    plan = planned(command("blended", "data.images=2"))
    assert Worker("cpu", 1).run(plan, plan.chunks[0]) == {"error": 4}
    assert set(
        rows(plan)["message"].str.contains(f"the solver returned images of {said}; ", regex=False)
    ) == {True}


def test_an_output_far_from_images_is_a_row_with_a_note(command, drawing, capsys) -> None:
    from posterior_bench.bench.cli.finish import finish

    drawing(lambda obs: torch.full_like(obs.y, 255.0))
    outcome = run(command("blended", "data.images=2"))
    assert set(rows(outcome.plan)["status"]) == {"ok"}
    assert set(rows(outcome.plan)["message"]) == {
        "values reach 255; images lie in [-1, 1], and what is outside was cut off"
    }
    assert finish([outcome])
    assert "4 rows, values reach 255;" in capsys.readouterr().err
    drawing(lambda obs: None)
    assert set(rows(run(command("blended", "data.images=2", out="usual")).plan)["message"]) == {""}


def test_a_constructor_that_exits_is_refused_and_no_good_end(command, monkeypatch) -> None:
    monkeypatch.setattr(BLENDED, "__post_init__", lambda self: sys.exit(0))
    with pytest.raises(UserError, match=r"Blended: SystemExit: 0 \(test_foreign.py:"):
        planned(command())


def test_a_file_that_exits_when_it_is_imported_is_refused(command, tmp_path) -> None:
    from posterior_bench.bench.config.overrides import check

    (tmp_path / "own.py").write_text("import sys\nclass Own:\n    pass\nsys.exit(0)\n")
    rest = [line for line in command() if not line.startswith("solver")]
    with pytest.raises(
        UserError, match=r"own.py fails when it is imported: Left: SystemExit: 0 \(own.py:4\)"
    ):
        planned(check([f"solver={tmp_path / 'own.py'}:Own", *rest]))


def test_a_check_of_a_solver_that_exits_is_no_good_end(monkeypatch) -> None:
    from posterior_bench.bench.conformance.promise import Promise, examine_one
    from posterior_bench.bench.conformance.results import FAIL

    def leaves(subject: object) -> None:
        sys.exit(0)

    result = examine_one(Promise("stays", "it stays", leaves), None)
    assert (result.status, result.name) == (
        FAIL,
        "stays",
    ) and "SystemExit: 0 (test_foreign.py:" in result.reason


# -- signals ---------------------------------------------------------------------------------------


def test_an_interrupt_is_told_apart_from_one_that_code_raises(heeding) -> None:
    with pytest.raises(Left, match="KeyboardInterrupt: mine"), foreign():
        raise KeyboardInterrupt("mine")
    with pytest.raises(KeyboardInterrupt), foreign():
        signal.raise_signal(signal.SIGINT)
    assert signals.exit_code() == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_solver_that_swallows_a_signal_stores_nothing(
    command, drawing, heeding, number: int, code: int
) -> None:
    def swallow(obs: object) -> None:
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)

    drawing(swallow)
    plan = planned(command("blended", "data.images=2", "solver.steps=2"))
    with pytest.raises(KeyboardInterrupt):
        Worker("cpu", 1).run(plan, plan.chunks[0])
    assert not plan.store.shards() and signals.exit_code() == code
    with pytest.raises(KeyboardInterrupt):  # whoever goes on all the same gets no further
        Worker("cpu", 1).run(plan, plan.chunks[0])


def test_the_signal_is_raised_again_in_a_loop_that_swallows_it(heeding, monkeypatch) -> None:
    monkeypatch.setattr(signals, "AGAIN_SECONDS", 0.02)
    swallowed = 0
    with pytest.raises(signals.Terminated), foreign():
        while swallowed < 3:
            try:
                if not swallowed:
                    signal.raise_signal(signal.SIGTERM)
                time.sleep(30)
            except BaseException:
                swallowed += 1
    assert swallowed == 3 and signals.exit_code() == 143


def test_a_loop_that_never_ends_is_ended_with_the_code_of_the_signal(
    heeding, monkeypatch, capfd
) -> None:
    ended = threading.Event()
    codes = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(signals, "AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(signals, "_END", end)
    with pytest.raises(signals.Terminated), foreign():
        signal.setitimer(signal.ITIMER_REAL, 0)
        while not ended.is_set():
            try:
                if not signals.came():
                    signal.raise_signal(signal.SIGTERM)
                ended.wait(30)
            except BaseException:
                continue
    assert codes == [143] and "did not stop" in capfd.readouterr().err


def test_a_command_after_a_signal_ends_with_its_code_whatever_was_made_of_it(
    monkeypatch, capsys
) -> None:
    """Libraries turn the exception into one of their own, into SystemExit, or into nothing."""
    from posterior_bench.bench import __main__ as bench

    def verb(how: str) -> Callable[[list[str]], int]:
        def act(arguments: list[str]) -> int:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                if how == "good":
                    return 0
                raise {
                    "exit": SystemExit(0),
                    "error": RuntimeError("lost"),
                    "user": UserError("bad"),
                }[how] from None
            return 1

        return act

    before = signal.getsignal(signal.SIGTERM)
    for how in ("good", "exit", "error", "user"):
        plant(monkeypatch, "ls", verb(how))
        with pytest.raises(SystemExit) as end:
            bench.main(["ls"])
        assert end.value.code == 143, how
        assert capsys.readouterr().err.splitlines()[-1] == "bench: interrupted"
    assert signal.getsignal(signal.SIGTERM) is before
    plant(monkeypatch, "ls", lambda arguments: 0)
    with pytest.raises(SystemExit) as end:
        bench.main(["ls"])
    assert end.value.code == 0


def test_a_description_has_type_text_and_place() -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError as error:
        assert re.fullmatch(r"ValueError: one \(test_foreign.py:\d+\)", described(error))
    assert described(ValueError("nowhere")) == "ValueError: nowhere"


def test_a_forked_process_may_end_as_it_likes() -> None:
    with foreign():
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_the_launcher_may_end_its_job_within_foreign_code() -> None:
    """submitit's handler of the signal before a time limit queues the job again and raises
    SystemExit."""
    namespace: dict[str, Callable[[], None]] = {}
    source = "import sys\ndef handler():\n    sys.exit(-1)\n"
    exec(compile(source, "/lib/submitit/core/job_environment.py", "exec"), namespace)
    with pytest.raises(SystemExit), foreign():
        namespace["handler"]()
    with pytest.raises(Left), foreign():
        sys.exit(-1)
