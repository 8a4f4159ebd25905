"""How far the running chunk is, in passes of the network.

The worker says when a chunk begins and which meter counts its passes; the meter calls :func:`beat`
before every network evaluation. Listeners, such as a progress bar, are told. A solver gets nothing
of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

EVERY_SECONDS = 0.1
"""How often a listener hears of passes at most."""


class Counting(Protocol):
    """What is asked of a meter (:class:`priors.base.Meter`)."""

    @property
    def passes(self) -> int:
        """Passes of the network so far."""


Listener = Callable[[str, int], None]
"""Is told the chunk's name and the passes that it has taken so far."""


@dataclass
class _Pulse:
    """The running chunk.

    ``done`` counts the passes of its parts that ended, ``meter`` those of the part that runs.
    """

    chunk: str = ""
    done: int = 0
    meter: Counting | None = None
    told: float = 0.0
    listeners: list[Listener] = field(default_factory=list)

    @property
    def passes(self) -> int:
        return self.done + (self.meter.passes if self.meter is not None else 0)


_PULSE = _Pulse()


def begin(chunk: str) -> None:
    """Begin a chunk, which has taken no passes."""
    _PULSE.chunk, _PULSE.done, _PULSE.meter = chunk, 0, None


@contextmanager
def following(meter: Counting) -> Iterator[None]:
    """Let ``meter`` count for the running chunk in the block; the chunk keeps its count."""
    _PULSE.meter = meter
    try:
        yield
    finally:
        _PULSE.done, _PULSE.meter = _PULSE.passes, None


def beat() -> None:
    """Tell the listeners, now and then."""
    now = time.monotonic()
    if _PULSE.listeners and now - _PULSE.told >= EVERY_SECONDS:
        _PULSE.told = now
        for listener in _PULSE.listeners:
            listener(_PULSE.chunk, _PULSE.passes)


def tell(chunk: str, passes: int) -> None:
    """Tell the listeners of a chunk that a worker in another process is at."""
    for listener in _PULSE.listeners:
        listener(chunk, passes)


def passes() -> int:
    """Those of the chunk at hand so far."""
    return _PULSE.passes


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block ``listener`` is told of passes in this process."""
    _PULSE.listeners.append(listener)
    try:
        yield
    finally:
        _PULSE.listeners.remove(listener)
