"""End the processes that a killed process leaves behind.

``python watchdog.py MARK PARENT`` waits until its parent has died.

A Ray cluster that was started for a run must not outlive it. Ray sees to that where the run ends by
itself; after ``kill -9`` some of its processes live on for minutes. All of them were started with
``BENCH_CLUSTER=MARK`` in their environment, by which this program finds and kills them. It imports
nothing of ours, so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "BENCH_CLUSTER"
LOOK_SECONDS, LAST_SECONDS = 0.5, 10.0
"""How often the parent is looked for, and how long after its death processes that appear are
killed."""


def start(mark: str) -> None:
    """Watch over this process from another one that Ctrl-C and the end of a terminal spare."""
    if Path("/proc/self/environ").exists():
        command = [sys.executable, "-S", "-E", os.path.abspath(__file__), mark, str(os.getpid())]
        nothing = subprocess.DEVNULL
        subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, cwd="/"
        )


def marked(mark: str) -> list[int]:
    """Return the processes with this mark, but for this one."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            continue
    return [pid for pid in found if pid != os.getpid()]


def main(mark: str, parent: int) -> None:
    """Wait for the parent, then kill until nothing is left."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    end = time.monotonic() + LAST_SECONDS
    while (left := marked(mark)) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(LOOK_SECONDS / 5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
