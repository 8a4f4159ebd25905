"""Ray clusters for tests: nodes started and killed by process id, each on a host of its own if
wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import hosts

START_SECONDS = 300


class Rays:
    """Nodes of one cluster. Each is started in a session of its own, by which its processes are
    found and ended."""

    def __init__(self, folder: Path):
        self.address = ""
        self._sessions: set[int] = set()
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_failure_threshold": "3",
            # a run in this process may have asked for the loopback alone
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        }
        self.folder = folder

    def head(self, address: str, port: int, *more: str) -> None:
        """Start the first node, at ``address``."""
        place = (f"--port={port}", f"--node-ip-address={address}", f"--temp-dir={self.folder}")
        self._ray("--head", *place, "--include-dashboard=false", *more)
        self.address = f"{address}:{port}"
        self.environment["RAY_ADDRESS"] = self.address

    def node(self, host: hosts.Host) -> None:
        """Add a node with one worker's place (a GPU that is none)."""
        there = (f"--address={self.address}", f"--node-ip-address={host.address}")
        self._ray(*there, "--num-gpus=1", inside=host.inside)

    def stop(self) -> None:
        """End every process of every node."""
        hosts.kill([pid for pid in hosts.processes() if hosts.session(pid) in self._sessions])

    def _ray(self, *arguments: str, inside: list[str] | None = None) -> None:
        ray = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--disable-usage-stats",
            "--num-cpus=2",
        ]
        start = subprocess.Popen(
            [*(inside or []), *ray, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._sessions.add(start.pid)
        said, _ = start.communicate(timeout=START_SECONDS)
        if start.returncode:
            raise RuntimeError(said.decode(errors="replace"))


def kill_worker(host: hosts.Host) -> None:
    """End one worker process of a node; Ray itself goes on there."""
    workers = [pid for pid in host.processes() if b"ray::_RayWorker" in hosts.read(pid, "cmdline")]
    assert workers, "there is no worker on this node"
    hosts.kill(workers[:1])
