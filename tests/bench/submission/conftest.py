"""One small bundle, of two solvers on two correlated pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.harness import run

from posterior_bench.bench.submission.submit import Statement, submit

CELL = [
    *("data=arena/g2", "data.images=8", "draws=2", "batch=16", "threads=1", "quiet=true"),
    *("sheet=false", "report=false", "metrics=[psnr,consistency,energy_score]"),
]


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two cells with 16 rows each."""
    study = tmp_path_factory.mktemp("submitted") / "study"
    for solver in ("ddrm", "blended"):
        run([*CELL, f"solver={solver}", "solver.steps=6", f"out={study}"])
    return study


@pytest.fixture(scope="session")
def bundle(small_study: Path) -> Path:
    """Its bundle."""
    path = small_study.with_name("study.bundle.zip")
    submit(small_study, path, Statement("Ada", "no", date="2026-01-31"))
    return path
