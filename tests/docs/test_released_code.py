"""The numbers of docs/released-code.md are measured here, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
import torch
from tests.solvers.moments import OneGenerator
from tests.solvers.replay import Case, cases

from posterior_bench.bench.core.environment import ROOT
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.dmplug import DMPlug

PAGE = (ROOT / "docs" / "released-code.md").read_text(encoding="utf-8")
NAMED = re.findall(r"\[`(\w+)(?:::(\w+))?`\]\(\.\./(tests/[\w/]+\.py)\)", PAGE)
EFFECTS = re.findall(r"^\| [^|]+ \| `(\w+)` \| ([\d.e-]+) \|", PAGE, re.MULTILINE)
QUANTITIES = {"vipaint": "sample"}
CASES = {case.name: case for case in cases()}


@cache
def _functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("module", "function", "file"), sorted(set(NAMED)))
def test_a_named_test_exists(module: str, function: str, file: str) -> None:
    assert file.endswith(f"/{module}.py")
    assert (ROOT / file).is_file()
    assert not function or function in _functions(file)


def test_tests_are_named() -> None:
    assert len(set(NAMED)) > 30


def _apart(case: Case) -> float:
    """Return how far the paper's form is from the authors' sample on the levels of their run."""
    settings = {"grid": "leading"} if case.name == "pigdm_general" else {}
    out, _ = case.run(case.has_levels, compat="none", **settings)
    return float((out["sample"] - case.arrays["expected"]).abs().max())


def test_every_method_with_a_golden_run_has_a_line() -> None:
    sampled = {case.name for case in CASES.values() if "expected" in case.arrays}
    shown = {name for name, _ in EFFECTS}
    assert shown <= sampled
    assert {CASES[name].method for name in sampled} == {CASES[name].method for name in shown}


@pytest.mark.parametrize(("name", "printed"), EFFECTS)
def test_the_effect_of_a_difference_is_the_printed_one(name: str, printed: str) -> None:
    """To the printed digits; below 1e-10 the two are the same but for rounding."""
    found = _apart(CASES[name])
    if float(printed) == 0:
        assert found < 1e-10
    else:
        assert found == pytest.approx(float(printed), rel=0.06)


def test_the_effect_of_choosing_with_the_truth() -> None:
    """DMPlug on two pixels, 400 problems: the best of seven snapshots of a run, or the last."""
    rows, sigma, prior = 400, 0.3, g2("vp")
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(2, rows, 2, generator=generator, dtype=torch.float64)
    truth = (normal[0] @ torch.linalg.cholesky(prior.covariances[0]).T).view(rows, 1, 1, 2)
    mask = torch.tensor([True, False]).expand(rows, 1, 1, 2)
    y = torch.where(mask, truth + sigma * normal[1].view_as(truth), 0.0)
    observed = Observation(y, Inpainting(mask, sigma))
    decibels = []
    for iterations in range(0, 61, 10):
        solver = DMPlug(iterations, lr=0.1, clip=False)
        x = solver.draw(observed, prior, OneGenerator(rows))
        decibels.append(10 * torch.log10(4 / (x - truth).square().mean((1, 2, 3))))
    last, best = decibels[-1].mean(), torch.stack(decibels).amax(0).mean()
    printed = re.search(r"PSNR of ([\d.]+) dB.*?of ([\d.]+) dB", PAGE, re.DOTALL)
    assert printed is not None
    assert [f"{last:.1f}", f"{best:.1f}"] == list(printed.groups())
