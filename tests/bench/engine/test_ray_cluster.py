"""Ray clusters that lose workers, nodes and the network: the rows of a serial run, each stored
once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import hosts, rays
from tests.bench.sweeps import (
    SECONDS,
    SLEEPING,
    assert_same_study,
    finished,
    launched,
    shards,
    slow_study,
    sweep,
    written,
)

pytest.importorskip("ray", reason="Ray is an extra; install it to test executor=ray")
Fault = Callable[[rays.Rays, hosts.Host], None]


def kill_node(cluster: rays.Rays, host: hosts.Host) -> None:
    hosts.kill(host.processes())


def replace_node(cluster: rays.Rays, host: hosts.Host) -> None:
    kill_node(cluster, host)
    cluster.node(hosts.Host(4))


FAULTS = [
    pytest.param(
        2, lambda cluster, host: rays.kill_worker(host), id="worker killed", marks=pytest.mark.slow
    ),
    pytest.param(2, kill_node, id="node killed", marks=pytest.mark.slow),
    pytest.param(1, replace_node, id="only node replaced", marks=pytest.mark.slow),
    pytest.param(2, lambda cluster, host: host.cut(), id="network cut", marks=pytest.mark.slow),
]


@pytest.fixture
def cluster() -> Iterator[rays.Rays]:
    with tempfile.TemporaryDirectory(
        prefix="ray", ignore_cleanup_errors=True
    ) as folder:  # sockets want a short path
        cluster = rays.Rays(Path(folder))
        cluster.environment.update(SLEEPING)
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    return slow_study(tmp_path_factory.mktemp("slow"))


@pytest.mark.slow
def test_auto_joins_a_cluster_that_is_already_there(cluster: rays.Rays, tmp_path: Path) -> None:
    finished(sweep(tmp_path / "serial", "solver=ddnm"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster.head("127.0.0.1", port)
    joined = (f"executor.{key}" for key in ("address=auto", "workers=2"))
    finished(
        sweep(tmp_path / "joined", "solver=ddnm", "executor=ray", *joined), cluster.environment
    )
    assert_same_study(tmp_path / "joined", tmp_path / "serial")
    # it was joined and not started anew, and it outlives the run
    asked = (
        "import ray; ray.init('auto', log_to_driver=False); print(len(ray.nodes()), "
        "ray.nodes()[0]['Alive'])"
    )
    alive = subprocess.run(
        [sys.executable, "-c", asked],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert alive.stdout.split()[-2:] == ["1", "True"], alive.stderr


@pytest.mark.slow
def test_without_an_address_ray_starts_here_whatever_else_is_known(tmp_path: Path) -> None:
    """The environment names a cluster that is gone."""
    gone = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    finished(sweep(tmp_path, "solver=ddnm", "seed=0", "executor=ray", "executor.workers=1"), gone)
    assert len(shards(tmp_path)) == 3


@pytest.mark.parametrize(("nodes", "fault"), FAULTS)
@pytest.mark.skipif(bool(hosts.unavailable()), reason=hosts.unavailable() or "network namespaces")
def test_a_fault_costs_only_the_chunk_in_flight(
    cluster: rays.Rays, slow: tuple[Path, tuple[str, ...]], tmp_path: Path, nodes: int, fault: Fault
) -> None:
    """The first node has no worker's place; one or two others have one each, and the last of them
    is struck."""
    serial, overrides = slow
    with hosts.network():
        cluster.head(hosts.HERE, 6391, "--num-gpus=0")
        places = [hosts.Host(number) for number in range(2, 2 + nodes)]
        for host in places:
            cluster.node(host)
        with launched(
            sweep(tmp_path, *overrides, "executor=ray", "executor.address=auto"),
            cluster.environment,
        ) as run:
            run.until("the first shards", lambda: len(shards(tmp_path)) >= 5)
            before = written(tmp_path)
            fault(cluster, places[-1])
            assert len(shards(tmp_path)) < len(shards(serial)), (
                "the sweep was over before the fault"
            )
            run.succeed()
        cluster.stop()
    assert_same_study(tmp_path, serial)
    after = written(tmp_path)
    # the struck worker may have stored a chunk and not yet said so
    assert sum(after[shard] != time for shard, time in before.items()) <= 1, (
        "finished chunks ran again"
    )
