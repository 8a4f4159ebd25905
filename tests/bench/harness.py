"""What the tests of the harness share: run a command in this process, and look at its rows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.run import Outcome, run_job
from posterior_bench.bench.store.schema import TIMINGS

FAST = {
    "blended": ["solver.steps=12"],
    "repaint": ["solver.steps=8", "solver.jump_length=2", "solver.resamples=2"],
    "dps": ["solver.steps=8"],
    "vipaint2": ["solver.iterations=3", "solver.refine_steps=4"],
}


def run(overrides: Sequence[str]) -> Outcome:
    """What ``python -m bench`` does, in this process."""
    return run_job(*compose(list(overrides)))


def planned(overrides: Sequence[str]) -> CellPlan:
    return prepare(*compose(list(overrides)))[1]


def rows(plan: CellPlan) -> pd.DataFrame:
    """All stored columns but timings: what must be bitwise equal."""
    columns = [c for c in plan.store.read().columns if c not in TIMINGS]
    return plan.store.read([*columns, "png"])


def assert_same_rows(a: CellPlan, b: CellPlan, but: Sequence[str] = ()) -> None:
    pd.testing.assert_frame_equal(
        rows(a).drop(columns=list(but)), rows(b).drop(columns=list(but)), check_exact=True
    )
