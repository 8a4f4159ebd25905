"""Processes of a killed run are ended by the one that watches over it, and nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from posterior_bench.bench.engine import ray_pool, watchdog

DRIVER = """
import importlib.util, os, subprocess, sys, time
spec = importlib.util.spec_from_file_location("watchdog", sys.argv[1])
watchdog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(watchdog)
watchdog.start("mine")
def sleeper(mark):
    env = {**os.environ, watchdog.VARIABLE: mark}
    return subprocess.Popen(["sleep", "300"], env=env, start_new_session=True)

own, other = sleeper("mine"), sleeper("mine2")
print(own.pid, other.pid, flush=True)
time.sleep(300)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the watchdog needs /proc")
def test_a_killed_driver_leaves_nothing_behind() -> None:
    file = str(Path(watchdog.__file__))
    driver = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", DRIVER, file], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    own, other = map(int, driver.stdout.readline().split())
    try:
        assert alive(own) and alive(other)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
        end = time.monotonic() + 60
        while alive(own) and time.monotonic() < end:
            time.sleep(0.05)
        assert not alive(own) and alive(other)
    finally:
        for pid in (own, other):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_cluster_of_this_machine_is_watched_and_listens_to_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    seen: dict[str, str | None] = {}

    def init(**settings: object) -> None:
        seen["mark"] = os.environ.get(watchdog.VARIABLE)
        seen["address"] = str(settings["address"])

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.setattr(watchdog, "start", started.append)
    monkeypatch.setattr(ray_pool, "heed_again", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # of a test before this one
    ray_pool.stay_here("auto")
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
    ray_pool._connect("auto")
    assert (started, seen) == ([], {"mark": None, "address": "auto"}), (
        "somebody else's cluster outlives the run"
    )
    ray_pool.stay_here(None)
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    ray_pool._connect(None)
    assert started == [seen["mark"]] and seen["address"] == "local"
    assert watchdog.VARIABLE not in os.environ, (
        "other programs that the run starts are not the cluster's"
    )
