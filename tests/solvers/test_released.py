"""Our solvers against the loops that their authors released, noise for noise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.solvers.replay import Case, cases
from torch import Tensor


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def runs() -> Iterator[object]:
    """Every case with the grid of its settings, and with the levels that are stored."""
    for case in cases():
        if case.has_levels:
            yield pytest.param(case, True, id=f"{case}-stored")
        yield pytest.param(case, False, id=f"{case}-own")


@pytest.mark.parametrize(("case", "replace_levels"), runs())
def test_a_released_run(case: Case, replace_levels: bool) -> None:
    changes = {}
    if not replace_levels and case.name == "pigdm_general":
        changes["grid"] = "leading"  # this branch of the released loop is our compat=none
    out, net = case.run(replace_levels, **changes)
    # the states after the first step and half way
    for where, k in case.about["locate"].items():
        time = case.arrays["trace_t"][k].item()
        state = next((z for t, z in net.calls if abs(t - time) < 1e-5), None)
        assert state is not None, f"{where}: no call at time {time}"
        apart = difference(state, case.arrays["trace_z"][k])
        assert apart <= case.tolerance, f"{where}, time {time}: {apart}"
    for name, value in out.items():
        expected = case.arrays["expected" if name == "sample" else f"expected_{name}"]
        apart = difference(value, expected)
        assert apart <= case.tolerance, f"{name}: {apart}"


STAGES = [
    pytest.param(case, stage, iterations, id=f"{case}-{stage}")
    for case in cases()
    if case.method == "vipaint"
    for stage, iterations in (
        ("init", 0),
        ("after_1", 1),
        ("half", case.about["settings"]["iterations"] // 2),
    )
    if f"{stage}_mu" in case.arrays
]


@pytest.mark.parametrize(("case", "stage", "iterations"), STAGES)
def test_a_fit_of_vipaint_on_its_way(case: Case, stage: str, iterations: int) -> None:
    prior, _ = case.prior(replace_levels=True)
    chain = case.solver(iterations=iterations).fit(case.observation, prior, case.noise).chain
    for name, value in {
        "mu": chain.mu,
        "log_var": chain.log_var,
        "gamma_logit": chain.logit,
    }.items():
        apart = difference(value.detach()[0], case.arrays[f"{stage}_{name}"])
        assert apart <= case.tolerance, f"{name}: {apart}"


def test_all_cases_are_there() -> None:
    assert len({(case.method, case.name) for case in cases()}) == 30
