"""The cores that this process may use, and how its threads wait for one another.

PyTorch shares an operation among threads, and a thread without work waits for the next operation.
By default it *spins*: it keeps its core busy for some milliseconds. Two processes with two threads
each on two cores then take turns at waiting, and both take more than twice as long as one thread
each (docs/scale.md). :func:`wait_without_spinning` lets such a thread sleep. Results are bitwise
the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

WAITING: Mapping[str, str] = {
    "OMP_WAIT_POLICY": "PASSIVE",  # of the standard, which GNU's OpenMP follows
    "KMP_BLOCKTIME": "0",  # of Intel's and LLVM's OpenMP, in milliseconds
}
"""The environment variables by which OpenMP lets a waiting thread sleep."""

_OWN = (*WAITING, "GOMP_SPINCOUNT", "KMP_LIBRARY")
"""A user who sets one of these has chosen how threads wait."""

_GROUPS = Path("/sys/fs/cgroup")


def wait_without_spinning() -> None:
    """Set :data:`WAITING` in the environment of this process, unless the user has chosen.

    OpenMP reads it when PyTorch is loaded, so this comes first; later it has no effect here, but on
    processes that this one starts.
    """
    if not any(name in os.environ for name in _OWN):
        os.environ.update(WAITING)


def threads_of_the_user() -> bool:
    """Return whether the environment says how many threads PyTorch takes."""
    return bool(os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"))


def cores() -> int:
    """Return the cores that this process may use: of its affinity, and of its container's quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    return max(1, min(count, _quota(count)))


def _quota(count: int) -> int:
    """Return the whole cores that control groups allow, of either version; ``count`` without."""
    with suppress(OSError, ValueError):
        used, period = (_GROUPS / "cpu.max").read_text(encoding="utf-8").split()
        return count if used == "max" else int(used) // int(period)
    with suppress(OSError, ValueError):
        used, period = (
            (_GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")
            for name in ("quota", "period")
        )
        return count if int(used) < 0 else int(used) // int(period)
    return count
