"""Hosts for tests of clusters: network namespaces on a bridge, each with an address of its own.
Root only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# of this process alone: two test runs on one machine must not share a bridge
_MARK = f"b{os.getpid()}"
NETWORK = f"10.213.{os.getpid() % 256}"
HERE = f"{NETWORK}.1"
"""This machine's address, as the hosts see it."""


@cache
def unavailable() -> str:
    """Why there can be no network namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return (
            "network namespaces need ip and nsenter; on Debian: apt-get install iproute2 util-linux"
        )
    probe = f"{_MARK}probe"
    probes = (
        f"netns add {probe}",
        f"link add {probe} type bridge",
        f"netns delete {probe}",
        f"link delete {probe}",
    )
    worked = [
        not subprocess.run(["ip", *words.split()], capture_output=True).returncode
        for words in probes
    ]
    return "" if all(worked) else "this machine does not allow network namespaces and bridges"


@contextmanager
def network() -> Iterator[None]:
    """A bridge that the hosts hang on, with this machine at ``HERE``; all are gone afterwards."""
    _ip(f"link add {_MARK} type bridge")
    try:
        _ip(f"addr add {HERE}/24 dev {_MARK}")
        _ip(f"link set {_MARK} up")
        yield
    finally:
        for path in Path("/run/netns").glob(f"{_MARK}h*"):
            subprocess.run(["ip", "netns", "delete", path.name], check=False)
            subprocess.run(
                ["ip", "link", "delete", f"{path.name}o"], check=False, capture_output=True
            )
        subprocess.run(["ip", "link", "delete", _MARK], check=False)


class Host:
    """A namespace with the address ``NETWORK``.``number``; file system and processes are this
    machine's."""

    def __init__(self, number: int):
        self.name, self.address = f"{_MARK}h{number}", f"{NETWORK}.{number}"
        _ip(f"netns add {self.name}")
        _ip(f"link add {self.name}o type veth peer name {self.name}i netns {self.name}")
        _ip(f"link set {self.name}o master {_MARK} up")
        _ip(f"-n {self.name} addr add {self.address}/24 dev {self.name}i")
        _ip(f"-n {self.name} link set {self.name}i up")
        _ip(f"-n {self.name} link set lo up")

    @property
    def inside(self) -> list[str]:
        """What a command begins with that is to run there. (``ip netns exec`` would mount another
        /sys.)"""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def processes(self) -> list[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split()]

    def cut(self) -> None:
        """Pull the cable."""
        _ip(f"link set {self.name}o down")


def processes() -> list[int]:
    """Every process of this machine but this one."""
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and int(path.name) != os.getpid()
    ]


def read(pid: int, name: str) -> bytes:
    """A file of a process; empty if that has ended, or is not ours to look at."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def environment(pid: int) -> dict[str, str]:
    pairs = (entry.partition(b"=") for entry in read(pid, "environ").split(b"\0"))
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def parent(pid: int) -> int:
    """The process that started another; 0 if that has ended."""
    return _stat(pid, 1)


def session(pid: int) -> int:
    """The session of a process, which the children of its leader keep, whatever they call
    themselves."""
    return _stat(pid, 3)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL; who has gone already is passed over."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, timeout=60)


def _stat(pid: int, field: int) -> int:
    """A field of /proc/PID/stat, counted from the state; 0 if the process has ended."""
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[field]) if fields else 0
