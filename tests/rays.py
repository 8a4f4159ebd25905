"""Ray clusters for tests: nodes started and killed by process id, each in a network namespace of its own if wanted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 90
NETWORK = "10.213.71"


def no_namespaces() -> str:
    """Why there can be no network namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip; on Debian: apt-get install iproute2"
    probe = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "this machine does not allow network namespaces"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return ""


class Rays:
    """Nodes of one cluster. Its processes carry a mark in their environment, by which they are found and ended."""

    def __init__(self, folder: Path):
        self.mark = uuid.uuid4().hex
        self.address = ""
        self.environment = {
            **os.environ,
            "BENCH_TEST_RAY": self.mark,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_failure_threshold": "3",
        }
        self.folder = folder

    def head(self, address: str, port: int, *more: str) -> None:
        """Start the first node, at ``address``."""
        self._ray([], "--head", f"--port={port}", f"--node-ip-address={address}", f"--temp-dir={self.folder}", *more)
        self.address = f"{address}:{port}"
        self.environment["RAY_ADDRESS"] = self.address

    def node(self, number: int) -> str:
        """Add a node with one worker's place (a GPU that is none) in a new namespace; returns the namespace's name."""
        name = f"bray{number}"
        commands = (
            f"ip netns add {name}",
            f"ip link add {name}o type veth peer name {name}i netns {name}",
            f"ip link set {name}o master brayb up",
            f"ip -n {name} addr add {NETWORK}.{number}/24 dev {name}i",
            f"ip -n {name} link set {name}i up",
            f"ip -n {name} link set lo up",
        )
        for command in commands:
            subprocess.run(command.split(), check=True, timeout=20)
        inside = ["nsenter", f"--net=/run/netns/{name}"]
        self._ray(inside, f"--address={self.address}", f"--node-ip-address={NETWORK}.{number}", "--num-gpus=1")
        return name

    def kill_node(self, name: str) -> None:
        """End every process of a node at once."""
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True, timeout=20)
        _kill([int(pid) for pid in listed.stdout.split()])

    def kill_worker(self, name: str) -> None:
        """End one worker process of a node; Ray itself goes on there."""
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True, timeout=20)
        workers = [int(p) for p in listed.stdout.split() if b"ray::_RayWorker" in _read(int(p), "cmdline")]
        assert workers, "there is no worker on this node"
        _kill(workers[:1])

    def cut(self, name: str) -> None:
        """Pull the cable of a node."""
        subprocess.run(["ip", "link", "set", f"{name}o", "down"], check=True, timeout=20)

    def stop(self) -> None:
        """End every process that carries the mark."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        mark = f"BENCH_TEST_RAY={self.mark}".encode()
        _kill([pid for pid in pids if pid != os.getpid() and mark in _read(pid, "environ").split(b"\0")])

    def _ray(self, inside: list[str], *arguments: str) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", *arguments]
        done = subprocess.run(
            [*inside, *ray, "--num-cpus=2", "--include-dashboard=false"][: None if "--head" in arguments else -1],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(done.stdout.decode(errors="replace"))


@contextmanager
def network() -> Iterator[None]:
    """A bridge that the namespaces hang on, with this host at ``NETWORK``.1; all are gone afterwards."""
    subprocess.run(["ip", "link", "add", "brayb", "type", "bridge"], check=True)
    try:
        subprocess.run(f"ip addr add {NETWORK}.1/24 dev brayb".split(), check=True)
        subprocess.run(["ip", "link", "set", "brayb", "up"], check=True)
        yield
    finally:
        for path in Path("/run/netns").glob("bray[0-9]*"):
            subprocess.run(["ip", "netns", "delete", path.name], check=False)
            subprocess.run(["ip", "link", "delete", f"{path.name}o"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", "brayb"], check=False)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
