"""Limits of a chunk, its time and its network passes, checked before every network call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from posterior_bench.bench.core import signals
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.errors import TimeoutExceeded
from posterior_bench.bench.engine import pulse


def watch_of(timeout: float | None) -> Callable[[], None] | None:
    """Return a function that raises TimeoutExceeded after ``timeout`` seconds.

    It is called before every evaluation of a network, because Python cannot be stopped safely in
    between. A call that never comes back is left to ``executor=ray``, which ends the worker. None
    without a limit.
    """
    if timeout is None:
        return None
    end = time.monotonic() + timeout

    def watch() -> None:
        if time.monotonic() > end:
            raise TimeoutExceeded(f"the chunk took longer than timeout={timeout:g} seconds")

    return watch


def watching(watch: Callable[[], None] | None) -> Callable[[], None]:
    """Return the function that a meter calls before every network evaluation.

    It looks for a signal, reports progress, and calls ``watch``.
    """

    def look() -> None:
        signals.check()
        pulse.beat()
        if watch is not None:
            watch()

    return look


def limit_of(budget: str | None, rows: int) -> tuple[float, str]:
    """Return what ``budget=`` allows so many rows, and in which unit of a meter."""
    if budget is None:
        return math.inf, "nfe"
    allowed = Budget.of(budget)
    return allowed.amount * rows, allowed.unit
