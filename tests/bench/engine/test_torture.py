"""A few seconds of tests/benchmarks/torture.py, which takes minutes and also fills disks."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.torture import Torture


def test_killed_drivers_workers_and_mergers_change_nothing(tmp_path: Path) -> None:
    victim = Torture(tmp_path, images=6)
    victim.kill_drivers(1)
    victim.kill_workers(2, workers=2)
    victim.killed_compaction(1)
    assert victim.counts.kills == 4 and len(victim.counts.troubles) == 3
    assert victim.counts.clean, victim.counts
