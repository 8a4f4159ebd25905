"""A few seconds of tests/benchmarks/torture.py, which takes minutes and also fills disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.benchmarks.torture import Torture

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.engine import job
from posterior_bench.bench.engine.run import run_job


@pytest.mark.slow
def test_killed_drivers_workers_and_mergers_change_nothing(tmp_path: Path) -> None:
    victim = Torture(tmp_path, images=6)
    victim.kill_drivers(1)
    victim.kill_workers(2, workers=2)
    victim.killed_compaction(1)
    assert victim.counts.kills == 4 and len(victim.counts.troubles) == 3
    assert victim.counts.clean, victim.counts


def test_a_commit_meanwhile_is_no_difference_and_another_result_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts after a commit records it; the process that compares has the one
    before."""
    victim = Torture(tmp_path, images=2)
    overrides = victim.overrides("committed")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(job, "environment", lambda: {**environment(), "commit": "f" * 40})
        plan = run_job(*compose(overrides)).plan
    assert (plan.store.read(["commit"])["commit"].str[:40] == "f" * 40).all()
    victim._finish(overrides, "a commit")
    assert victim.counts.clean, victim.counts

    (chunk,) = plan.chunks
    rows = plan.store.table(chunk.name).to_pylist()
    plan.store.write(chunk.name, [{**row, "psnr": row["psnr"] + 1} for row in rows])
    victim._finish(overrides, "another result")
    assert victim.counts.different == 1 and victim.counts.where == ["psnr", "leaderboard.csv"]
