"""Sweeps on a real Slurm of two nodes: whatever is requeued, killed or launched twice, the rows of a serial run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import slurm
from tests.bench.sweeps import ROOT, SECONDS, SOLVER, assert_same_study, board, finished, shards, sweep

SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=debug", "hydra.launcher.cpus_per_task=1")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra 'slurm' is not installed")
if reason := slurm.unavailable():
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("serial")
    finished(sweep(study, "solver=ddnm,blended"))
    return study


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A serial study of cells of twelve slow chunks each, and what asks for it."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SOLVER)
    overrides = (f"solver={folder / 'slow.py'}:Slow", "operator.sigma=0.05,0.1", "++data.images=12", "++batch=2")
    finished(sweep(folder / "serial", *overrides))
    return folder / "serial", overrides


def test_two_launches_at_once_end_in_the_rows_of_a_serial_sweep(cluster, serial: Path, tmp_path: Path) -> None:
    """Both have all four cells to do; they race for every chunk and every table."""
    command = sweep(tmp_path, "solver=ddnm,blended", *SLURM)
    launches = [subprocess.Popen(command, cwd=ROOT, env=cluster.environment) for _ in range(2)]
    try:
        assert [launch.wait(SECONDS) for launch in launches] == [0, 0]
    finally:
        for launch in launches:
            launch.kill()
    assert_same_study(tmp_path, serial)


def test_who_launched_hears_of_failed_rows_and_of_mistakes(cluster, tmp_path: Path) -> None:
    """A job that cannot run ends with a reason instead of leaving its launcher waiting."""
    command = sweep(tmp_path, "solver=ddnm", "seed=0", "budget=nfe:1", *SLURM)
    done = subprocess.run(command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1 and "of 8 rows failed" in done.stderr, done.stderr
    assert len(board(tmp_path)) == 1
    command = sweep(tmp_path, "solver=ddnm", "seed=0", "metrics=[fid]", *SLURM)
    done = subprocess.run(command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode != 0 and "fid" in done.stderr


@pytest.mark.parametrize("command", [("scancel", "--signal=USR2"), ("scontrol", "requeue")], ids=["USR2", "requeue"])
def test_a_requeued_job_continues(cluster, slow, tmp_path: Path, command: tuple[str, ...]) -> None:
    """USR2 is what Slurm sends before a time limit and submitit answers by queueing the job again."""
    serial, overrides = slow
    launch = subprocess.Popen(sweep(tmp_path, *overrides, *SLURM), cwd=ROOT, env=cluster.environment)
    try:
        slurm.wait_for("the first shards", lambda: len(shards(tmp_path)) >= 4, SECONDS)
        interrupted = cluster.jobs("running")[:2]
        before = {path: (tmp_path / path).stat().st_mtime_ns for path in shards(tmp_path)}
        for job in interrupted:
            cluster.run(*command, job)
        restarts = lambda job: "Restarts=0" not in cluster.run("scontrol", "show", "job", job)  # noqa: E731
        slurm.wait_for("the jobs to be queued again", lambda: all(restarts(job) for job in interrupted), 60)
        assert launch.wait(SECONDS) == 0
    finally:
        launch.kill()
        cluster.cancel_all()
    assert_same_study(tmp_path, serial)
    assert {path: (tmp_path / path).stat().st_mtime_ns for path in before} == before, "finished chunks ran again"


def test_a_killed_sweep_resubmitted_with_half_the_nodes(cluster, slow, tmp_path: Path) -> None:
    """A node dies with its jobs, the launching program is killed, the rest is cancelled; one node ends the sweep."""
    serial, overrides = slow
    command = sweep(tmp_path, *overrides, *SLURM)
    launch = subprocess.Popen(command, cwd=ROOT, env=cluster.environment)
    try:
        slurm.wait_for("the first shards", lambda: len(shards(tmp_path)) >= 6, SECONDS)
        launch.kill()
        cluster.kill_node("n1")
        cluster.cancel_all()
        left = len(shards(serial)) - len(shards(tmp_path))
        assert left > 0, "the sweep was over before it could be killed"
        finished(command, cluster.environment)
    finally:
        launch.kill()
        cluster.start_node("n1")
        cluster.run("scontrol", "update", "nodename=n1", "state=resume")
        slurm.wait_for("the node to return", lambda: cluster.states().get("n1") == "idle", 60)
    assert_same_study(tmp_path, serial)
    assert not [path for path in tmp_path.rglob(".*.tmp") if os.path.getsize(path)]
