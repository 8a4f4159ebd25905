"""What the tests of the harness share: run a command in this process, and look at its rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import pytest

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli import app
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verbs import VERBS, run_verb
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

TINY: dict[str, object] = {"name": "tiny", "training": {}, "source": "this test", "licence": "MIT"}
"""What ``prior.json`` says of the untrained latent prior."""


def run(overrides: Sequence[str]) -> Outcome:
    """What ``python -m bench`` does, in this process."""
    return run_job(*compose(list(overrides)))


def bench(*words: object) -> int:
    """The exit code of ``python -m bench WORDS``, in this process."""
    for noted in (app.OUTCOMES, app.SWEEPS, app.SKIPPED):
        noted.clear()
    before = sys.argv
    try:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
    finally:
        sys.argv = before
    return int(stop.value.code or 0)


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


def verb(name: str, *words: object) -> int:
    """The exit code of ``bench NAME WORDS`` in this process; mistakes are raised."""
    return run_verb(name, [str(word) for word in words])


def plant(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[list[str]], int]) -> None:
    """Put another function in the place of a verb's; it gets the words as they are."""

    def add_arguments(parser: Parser) -> None:
        parser.add_argument("words", nargs="*")

    planted = replace(VERBS[name], add_arguments=add_arguments, run=lambda words: act(words))
    monkeypatch.setitem(VERBS, name, planted)
