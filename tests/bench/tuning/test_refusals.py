"""Settings that a trial may not have."""

from __future__ import annotations

import pytest

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.tuning.search import _refused

DDNM = ["solver=ddnm", "data=arena/g2", "solver.travel_length=2"]


@pytest.mark.parametrize(("repeat", "reason"), [(1, ""), (2, "travel_length is work")])
def test_what_is_work_may_depend_on_other_settings(repeat: int, reason: str) -> None:
    """How far DDNM travels is work where it travels, and nothing where it does not."""
    words = check([*DDNM, f"solver.travel_repeat={repeat}"])
    found = _refused(compose(words)[0], {"travel_length": 2, "travel_repeat": repeat})
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_a_value_that_the_solver_refuses_is_a_reason() -> None:
    words = check(["solver=ddnm", "data=arena/g2", "solver.eta=1.5"])
    assert "eta" in _refused(compose(words)[0], {"eta": 1.5})
