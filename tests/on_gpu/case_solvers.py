"""Every solver on every small prior that it can run with: the same numbers as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.on_gpu.small import PRIORS
from tests.pretended_gpu import DEVICE, KIND

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.conformance.check import _checked_solver
from posterior_bench.bench.conformance.checked_solver import CheckedSolver
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.engine.job import unchecked

LIGHT = ("exact", "pixel", "latent")
"""Priors without a real network: a solver's own operations are what can be on a wrong device."""

HEAVY = ("network", "inpainting")

NEED_A_FILE = {
    "folder": "stored images",
    "torchscript": "a file of the user",
    "dpir": "weights of the user",
}
NEED_A_PACKAGE = {"deepinv": "deepinv", "telea": "cv2", "navier_stokes": "cv2"}
OPERATORS = {
    "hio": ["operator=phase_retrieval"],
    "gibbs": ["operator.sigma=0.1"],
    "long_run": ["operator=squared_projection", "operator.sigma=0.1"],
}
SOLVERS = sorted(options("solver", plugins=()).keys() - NEED_A_FILE.keys())


def _able(config: JobConfig, labels: Sequence[str]) -> dict[str, CheckedSolver]:
    """Return the solver on every one of these priors that has what it needs."""
    priors = {label: PRIORS[label]() if label in PRIORS else small_prior(label) for label in labels}
    checked = {k: _checked_solver(config, prior, None, frozenset()) for k, prior in priors.items()}
    return {label: solver for label, solver in checked.items() if not solver.lacking}


def _there(checked: CheckedSolver) -> CheckedSolver:
    """Return the solver on the GPU; copies, because priors and modules move in place."""
    problem = checked.problem
    prior, modules = copy.deepcopy((problem.prior, problem.modules))
    moved = None if modules is None else {k: m.to(DEVICE) for k, m in modules.items()}
    return replace(
        checked, problem=replace(problem, prior=prior.to(DEVICE), modules=moved, device=DEVICE)
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_stay_on_the_gpu_and_equal_those_of_the_cpu(name):
    if name in NEED_A_PACKAGE:
        pytest.importorskip(NEED_A_PACKAGE[name])
    config = unchecked(compose([f"solver={name}", *OPERATORS.get(name, [])])[0])
    able = _able(config, LIGHT) or _able(config, ("text", "flow", "increments"))
    able = able or _able(config, HEAVY)
    assert able
    for label, checked in able.items():
        x = _there(checked).run(images=(0,))
        assert x.device.type == KIND, label
        difference = (x.cpu() - checked.run(images=(0,))).abs().max()
        assert difference == 0, label
