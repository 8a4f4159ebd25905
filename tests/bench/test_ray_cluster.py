"""Ray clusters that lose workers, nodes and the network: the rows of a serial run, each stored once."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import rays
from tests.bench.sweeps import ROOT, SECONDS, SOLVER, assert_same_study, finished, shards, sweep
from tests.slurm import wait_for

pytest.importorskip("ray", reason="Ray is an extra; install it to test executor=ray")
FAULTS: dict[str, Callable[[rays.Rays, str], object]] = {
    "worker killed": lambda cluster, node: cluster.kill_worker(node),
    "node killed": lambda cluster, node: cluster.kill_node(node),
    "node replaced": lambda cluster, node: (cluster.kill_node(node), cluster.node(4)),
    "network cut": lambda cluster, node: cluster.cut(node),
}


@pytest.fixture
def cluster() -> Iterator[rays.Rays]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # sockets want a short path
        cluster = rays.Rays(Path(folder))
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A serial study of two cells of twelve slow chunks each, and what asks for it."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SOLVER)
    overrides = (f"solver={folder / 'slow.py'}:Slow", "++data.images=12", "++batch=2")
    finished(sweep(folder / "serial", *overrides))
    return folder / "serial", overrides


@pytest.mark.slow
def test_auto_joins_a_cluster_that_is_already_there(cluster: rays.Rays, tmp_path: Path) -> None:
    finished(sweep(tmp_path / "serial", "solver=ddnm"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster.head("127.0.0.1", port)
    joined = (f"executor.{key}" for key in ("address=auto", "workers=2"))
    finished(sweep(tmp_path / "joined", "solver=ddnm", "executor=ray", *joined), cluster.environment)
    assert_same_study(tmp_path / "joined", tmp_path / "serial")
    # it was joined and not started anew, and it outlives the run
    asked = "import ray; ray.init('auto', log_to_driver=False); print(len(ray.nodes()), ray.nodes()[0]['Alive'])"
    alive = subprocess.run(
        [sys.executable, "-c", asked], env=cluster.environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert alive.stdout.split()[-2:] == ["1", "True"], alive.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.skipif(bool(rays.no_namespaces()), reason=rays.no_namespaces() or "network namespaces")
def test_a_fault_costs_only_the_chunk_in_flight(cluster: rays.Rays, slow, tmp_path: Path, fault: str) -> None:
    """The first node has no worker's place; two others have one each, and the second of them is struck."""
    serial, overrides = slow
    with rays.network():
        cluster.head(f"{rays.NETWORK}.1", 6391, "--num-gpus=0")
        nodes = [cluster.node(2), cluster.node(3)]
        command = sweep(tmp_path, *overrides, "executor=ray", "executor.address=auto", "executor.workers=2")
        run = subprocess.Popen(command, cwd=ROOT, env=cluster.environment)
        try:
            wait_for("the first shards", lambda: len(shards(tmp_path)) >= 5, SECONDS)
            FAULTS[fault](cluster, nodes[1])
            assert len(shards(tmp_path)) < len(shards(serial)), "the sweep was over before the fault"
            assert run.wait(SECONDS) == 0
        finally:
            run.kill()
            cluster.stop()
    assert_same_study(tmp_path, serial)
