"""Sweeps on a real Slurm of two nodes: whatever is requeued, killed or launched twice, the rows of
a serial run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import hosts, slurm
from tests.bench.sweeps import (
    ROOT,
    SECONDS,
    SLEEPING,
    assert_same_study,
    begun,
    board,
    finished,
    launched,
    shards,
    slow_study,
    sweep,
    written,
)

SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=debug", "hydra.launcher.cpus_per_task=1")
pytest.importorskip(
    "hydra_plugins.hydra_submitit_launcher", reason="the extra 'slurm' is not installed"
)
if reason := slurm.unavailable():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        cluster.environment.update(SLEEPING)
        yield cluster


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("serial")
    finished(sweep(study, "solver=ddnm,blended"))
    return study


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    return slow_study(tmp_path_factory.mktemp("slow"), "operator.sigma=0.05,0.1")


@pytest.fixture(scope="module")
def two_cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    return slow_study(tmp_path_factory.mktemp("two"))


@pytest.mark.slow
def test_two_launches_at_once_end_in_the_rows_of_a_serial_sweep(
    cluster: slurm.Cluster, serial: Path, tmp_path: Path
) -> None:
    """Both have all four cells to do; they race for every chunk and every table."""
    command = sweep(tmp_path, "solver=ddnm,blended", *SLURM)
    with (
        launched(command, cluster.environment) as first,
        launched(command, cluster.environment) as second,
    ):
        first.succeed()
        second.succeed()
    assert_same_study(tmp_path, serial)


@pytest.mark.slow
def test_who_launched_hears_of_failed_rows(cluster: slurm.Cluster, tmp_path: Path) -> None:
    command = sweep(tmp_path, "solver=ddnm", "solver.steps=2", "seed=0", "budget=nfe:1", *SLURM)
    with launched(command, cluster.environment) as launch:
        assert launch.process.wait(SECONDS) == 1, launch.said
        assert "of 8 rows failed" in launch.said
    assert len(board(tmp_path)) == 1


@pytest.mark.slow
def test_who_launched_hears_of_a_mistake_that_a_job_meets(
    cluster: slurm.Cluster, tmp_path: Path
) -> None:
    """The job ends with a reason in one line instead of leaving its launcher waiting."""
    with launched(
        sweep(tmp_path, "solver=ddnm", "seed=0", "timeout=-1", *SLURM), cluster.environment
    ) as launch:
        assert launch.process.wait(SECONDS) == 2, launch.said
        assert (
            "bench: timeout=-1.0: give seconds above 0" in launch.said
            and "Traceback" not in launch.said
        )
    assert list(tmp_path.glob("launcher/.submitit/*/*_result.pkl")), "no job met it"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("scancel", "--signal=USR2"), id="USR2"),
        pytest.param(("scontrol", "requeue"), id="requeue", marks=pytest.mark.slow),
    ],
)
def test_a_requeued_job_continues(
    cluster: slurm.Cluster,
    two_cells: tuple[Path, tuple[str, ...]],
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    """USR2 is what Slurm sends before a time limit and submitit answers by queueing the job
    again."""
    serial, overrides = two_cells
    try:
        with launched(sweep(tmp_path, *overrides, *SLURM), cluster.environment) as launch:
            launch.until("a shard of every cell", lambda: begun(tmp_path) == 2)
            interrupted, before = cluster.jobs("running")[:1], written(tmp_path)
            assert interrupted and before.keys() < {*shards(serial)}, (
                "the sweep was over before it was interrupted"
            )
            for job in interrupted:
                cluster.run(*command, job)
            launch.until(
                "the job to be queued again", lambda: all(map(cluster.restarts, interrupted))
            )
            launch.succeed()
    finally:
        cluster.cancel_all()
    assert_same_study(tmp_path, serial)
    assert {shard: time for shard, time in written(tmp_path).items() if shard in before} == before


@pytest.mark.slow
def test_a_killed_sweep_resubmitted_with_half_the_nodes(
    cluster: slurm.Cluster, slow: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    """A node dies with its jobs, the launching program is killed, the rest is cancelled; one node
    ends the sweep."""
    serial, overrides = slow
    command = sweep(tmp_path, *overrides, *SLURM)
    try:
        with launched(command, cluster.environment) as launch:
            launch.until("a shard of every cell", lambda: begun(tmp_path) == 4)
        cluster.kill_node("n1")
        cluster.cancel_all()
        before = written(tmp_path)
        assert before.keys() < {*shards(serial)}, "the sweep was over before it could be killed"
        finished(command, cluster.environment)
    finally:
        cluster.start_node("n1")
        cluster.run("scontrol", "update", "nodename=n1", "state=resume")
        slurm.wait_for(
            "the node to return", lambda: cluster.states().get("n1") == "idle", slurm.SECONDS
        )
    assert_same_study(tmp_path, serial)
    assert {shard: time for shard, time in written(tmp_path).items() if shard in before} == before
    assert not [path for path in tmp_path.rglob(".*.tmp") if os.path.getsize(path)]


@pytest.mark.slow
@pytest.mark.skipif(bool(hosts.unavailable()), reason=hosts.unavailable() or "network namespaces")
def test_a_cell_over_two_nodes_by_the_script_of_the_docs(
    slow: tuple[Path, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """``ray symmetric-run`` under ``srun``; a GPU that is none makes a worker's place on each
    node."""
    pytest.importorskip("ray", reason="Ray is an extra; install it to test executor=ray")
    serial, overrides = slow
    cells = sweep(tmp_path, *overrides, "executor=ray", "executor.address=auto")
    script = _script_of_the_docs(shlex.join(["python", *cells[1:]]))
    with hosts.network(), slurm.cluster(tmp_path_factory.mktemp("hosts"), separate=True) as cluster:
        programs = Path(sys.executable).parent
        cluster.environment.update(
            SLEEPING, PATH=f"{programs}:{cluster.environment['PATH']}", **_RAY
        )
        (tmp_path / "job.sh").write_text(script)
        job = cluster.run(
            "sbatch",
            "--parsable",
            f"--chdir={ROOT}",
            f"--output={tmp_path}/log",
            f"{tmp_path}/job.sh",
        )
        nodes = set[str]()

        def ended() -> bool:
            nodes.update(
                path.name.partition(".")[0] for path in tmp_path.glob("cells/*/alive/*.json")
            )
            return job.strip() not in cluster.jobs()

        slurm.wait_for("the job to end", ended, 3 * SECONDS)
        said = (tmp_path / "log").read_text()
    assert shards(tmp_path) == shards(serial), said
    assert_same_study(tmp_path, serial)
    assert nodes == {*slurm.NODES}, "one node did all the work"


_RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "300",  # a busy machine starts slowly
    # how long the second node waits for a head that has ended
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}


def _script_of_the_docs(command: str) -> str:
    """The batch script of docs/scale.md with this sweep for its command, and CPUs for its GPUs."""
    page = (ROOT / "docs" / "scale.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", page, re.DOTALL)
    assert script is not None
    text = (
        script[1]
        .replace(" --gpus-per-node=8", "")
        .replace("--num-gpus 8", "--num-cpus 2 --num-gpus 1")
    )
    return re.sub(r"python -m bench .*", lambda found: command, text)
