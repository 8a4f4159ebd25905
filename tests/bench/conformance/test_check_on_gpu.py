"""``bench check executor.device=cuda``: the promises of a run are checked where it will run.

``cpu:0`` stands in for the GPU. Its tensors are those of the CPU, and the prior knows its name.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
import torch
from tests.bench.conformance.test_check import INPAINTING, finishing
from torch import Tensor

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.conformance import check
from posterior_bench.bench.conformance.checked_solver import CheckedSolver
from posterior_bench.bench.conformance.results import FAIL
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.conformance.small_problem import SmallProblem
from posterior_bench.bench.engine import device
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Observation, Solver

GPU = "cpu:0"


def only_there(change: Callable[[Tensor], Tensor]) -> Solver:
    """A solver that is honest on the CPU, and changes its samples on the GPU."""

    def finish(x: Tensor, obs: Observation, prior: Prior) -> Tensor:
        return change(x) if str(prior.device) == GPU else x

    return finishing(finish)


def failed(solver: Solver, where: str) -> list[str]:
    checked = CheckedSolver(solver, SmallProblem(small_prior("exact"), INPAINTING))
    return [result.name for result in check._examined(checked, where) if result.status == FAIL]


def _with_nan_spread(x: Tensor) -> Tensor:
    return x + 0 * x.sum() if x.isnan().any() else x


CALLS = count()
BROKEN = {
    "finite": lambda x: x / 0,
    "repeat": lambda x: x + 1e-6 * next(CALLS),
    "batch": lambda x: x + 1e-3 * x.mean(),
    "nan": _with_nan_spread,
}


@pytest.mark.parametrize("promise", BROKEN)
def test_a_promise_broken_on_the_gpu_alone_is_found_there(promise: str) -> None:
    solver = only_there(BROKEN[promise])
    assert failed(solver, "cpu") == []
    assert failed(solver, GPU) == [promise]
    assert small_prior("exact").device == torch.device("cpu"), "the shared prior is back"


def test_kernels_are_those_of_a_worker_and_settings_are_back(monkeypatch) -> None:
    seen = []
    original = device.repeatable
    monkeypatch.setattr(
        "posterior_bench.bench.conformance.small_problem.repeatable",
        # a worker asks for them on every device that is no CPU
        lambda name: original("cuda:0" if name == GPU else name),
    )
    solver = only_there(lambda x: (seen.append(torch.are_deterministic_algorithms_enabled()), x)[1])
    assert failed(solver, GPU) == []
    assert seen and all(seen) and not torch.are_deterministic_algorithms_enabled()


def test_the_device_of_the_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(check, "device_called", lambda name: {"cuda": GPU}[name])
    prior = ("prior=smooth", "prior.shape=[1,4,4]")
    with pytest.raises(SystemExit) as end:
        main(["check", "solver=ddnm", *prior, "executor.device=cuda"])
    assert end.value.code == 0
    assert f"every promise is checked on {GPU}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", "solver=ddnm", "executor.device=cuda"])
    assert end.value.code == 2
    assert "this machine has no CUDA device" in capsys.readouterr().err
