"""What code of other people changes in the process is put back: the next cell's rows are what they
are alone."""

from __future__ import annotations

import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from tests.bench.harness import planned, rows

from posterior_bench.bench.core.isolation import NotPutBack, _put_back, isolated
from posterior_bench.bench.core.setting import Setting
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.solvers import blended

BLENDED = blended.Blended
DRAW = BLENDED.draw


def _autocast() -> None:
    torch.autocast("cpu", torch.bfloat16).__enter__()


def _inference() -> None:
    KEPT.append(torch.inference_mode())
    KEPT[-1].__enter__()


def _hook() -> None:
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, out: out * 0)


def _printing() -> None:
    torch.set_printoptions(precision=1)
    np.set_printoptions(precision=1)


KEPT: list[object] = []

CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "tensor type": (
        lambda: torch.set_default_tensor_type(torch.DoubleTensor),
        lambda: torch.ones(1).dtype,
    ),
    "default device": (lambda: torch.set_default_device("meta"), lambda: torch.ones(1).device),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "inference": (_inference, torch.is_inference_mode_enabled),
    "autocast": (_autocast, lambda: (torch.ones(2, 2) @ torch.ones(2, 2)).dtype),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "determinism": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "cudnn": (
        lambda: [
            setattr(torch.backends.cudnn, name, True) for name in ("benchmark", "deterministic")
        ],
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    ),
    "tf32": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: torch.backends.cuda.matmul.allow_tf32,
    ),
    "tf32 of convolutions": (
        lambda: setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
        lambda: torch.backends.cudnn.allow_tf32,
    ),
    "precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "precision by its newer name": (
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
        lambda: torch.backends.fp32_precision,
    ),
    "attention": (
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        torch.backends.cuda.flash_sdp_enabled,
    ),
    "hooks": (_hook, lambda: torch.nn.Identity()(torch.ones(1)).item()),
    "torch's numbers": (lambda: torch.manual_seed(1), lambda: torch.get_rng_state().tolist()),
    "numpy's numbers": (lambda: np.random.seed(1), lambda: np.random.get_state()[1].tolist()),
    "Python's numbers": (lambda: random.seed(1), random.getstate),
    "numpy's errors": (lambda: np.seterr(all="raise"), np.geterr),
    "printing": (_printing, lambda: (str(torch.tensor(0.123)), str(np.array(0.123)))),
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "environment": (lambda: os.environ.update(HOME="/nowhere", NEW="1"), lambda: dict(os.environ)),
    "umask": (lambda: os.umask(0o777), lambda: [os.umask(mask := os.umask(0o22)), mask][1]),
    "locale": (
        lambda: locale.setlocale(locale.LC_ALL, "C"),
        lambda: locale.setlocale(locale.LC_ALL),
    ),
    "warnings": (lambda: warnings.simplefilter("error"), lambda: list(warnings.filters)),
    "handlers": (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGTERM),
    ),
    "alarm": (
        lambda: signal.setitimer(signal.ITIMER_PROF, 999),
        lambda: signal.getitimer(signal.ITIMER_PROF)[0] > 0,
    ),
    "blocked signals": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
    ),
    "path": (lambda: sys.path.insert(0, "/nowhere"), lambda: list(sys.path)),
    "output": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout),
    "recursion": (
        lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 100),
        sys.getrecursionlimit,
    ),
}


@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type")
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_there_within_the_block_and_gone_after_it(what: str) -> None:
    change, look = CHANGES[what]
    before = look()
    with isolated():
        change()
        inside = look()
    assert look() == before
    if what != "locale":  # it may be C already
        assert inside != before


def test_small_numbers_are_kept_again() -> None:
    """A processor may round them to zero; torch has no question for it."""
    small = torch.full((64,), 1e-310, dtype=torch.float64)
    with isolated(numbers=True):
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor has no such mode")
        assert (small * 0.5 == 0).all()
    assert (small * 0.5 != 0).all()


def test_everything_is_put_back_after_an_error_too() -> None:
    with pytest.raises(KeyError), isolated():
        torch.set_default_dtype(torch.float64)
        raise KeyError
    assert torch.ones(1).dtype == torch.float32


def test_what_cannot_be_put_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    box = [1]
    stuck = Setting("the box", lambda: box[0], lambda value: None)
    monkeypatch.setattr("posterior_bench.bench.core.isolation.NUMBERS", (stuck,))
    with (
        pytest.raises(NotPutBack, match="the code changed the box, which cannot be put back"),
        isolated(numbers=True),
    ):
        box[0] = 2
    assert _put_back([stuck], [2]) == []


def test_a_cell_after_a_solver_that_changes_everything_has_the_rows_it_has_alone(
    command, monkeypatch
) -> None:
    alone = planned(command("blended", "solver.steps=3", "data.images=4", out="alone"))
    for chunk in alone.chunks:
        Worker("cpu", 1).run(alone, chunk)
    worker = Worker("cpu", 1)

    def spoil(self, obs, prior, noise):
        for what in (
            "default dtype",
            "threads",
            "gradients",
            "numpy's errors",
            "folder",
            "environment",
            "handlers",
        ):
            CHANGES[what][0]()
        torch.manual_seed(3)
        return DRAW(self, obs, prior, noise)

    with monkeypatch.context() as patch:
        patch.setattr(BLENDED, "draw", spoil)
        spoiled = planned(command("blended", "solver.steps=4", "data.images=4", out="spoiled"))
        worker.run(spoiled, spoiled.chunks[0])
    table = rows(spoiled)
    assert set(table["status"]) == {"ok"} and set(table["threads"]) == {2}, (
        "the threads that were used, not those set"
    )
    after = planned(command("blended", "solver.steps=3", "data.images=4", out="after"))
    for chunk in after.chunks:
        worker.run(after, chunk)
    pd.testing.assert_frame_equal(rows(after), rows(alone), check_exact=True)


def test_a_solver_that_sets_the_threads_between_operations_is_refused(command, monkeypatch) -> None:
    """Torch lets a process set them once, so they could not be put back."""
    monkeypatch.setattr(BLENDED, "draw", lambda *arguments: torch.set_num_interop_threads(3))
    plan = planned(command("blended", "data.images=2"))
    assert Worker("cpu", 1).run(plan, plan.chunks[0]) == {"error": 4}
    assert set(rows(plan)["message"].str.contains("cannot set number of interop threads")) == {True}


def test_workers_of_one_process_keep_their_threads(command) -> None:
    """A sweep over threads comes back to a worker that it has used before."""
    one, two = Worker("cpu", 1), Worker("cpu", 2)
    for number, worker in enumerate((one, two, one)):
        plan = planned(command("blended", "data.images=2", "solver.steps=2", out=str(number)))
        worker.run(plan, plan.chunks[0])
        assert set(rows(plan)["threads"]) == {worker.threads}, number
