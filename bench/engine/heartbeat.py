"""Signs of life beside the rows, which say which chunk is being computed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from posterior_bench.bench.engine import pulse

FIRST_SECONDS, BEAT_SECONDS = 1.0, 15.0
"""A chunk's first sign of progress, and how often there is one later."""
STALLED_SECONDS = 90.0
"""A worker that has been silent for this long is dead or cut off: six beats are missing."""


@dataclass(frozen=True)
class Beat:
    """The last sign of a worker.

    It holds where the worker runs, its chunk, the seconds since it took that chunk and since its
    last sign, and the ``passes`` of the network that the chunk has taken so far.
    """

    worker: str
    chunk: str
    working: float
    silent: float
    passes: int = 0

    @property
    def fresh(self) -> bool:
        """Whether the worker is still alive, by the age of its last sign."""
        return self.silent < STALLED_SECONDS


@contextmanager
def beating(cell_folder: Path, chunk: str) -> Iterator[None]:
    """Keep a sign in ``<cell folder>/alive`` while the block runs, one small file per process.

    The sign only serves people who look: if it cannot be written, work goes on without it.
    """
    path = cell_folder / "alive" / f"{socket.gethostname().replace('/', '-')}.{os.getpid()}.json"
    stop, since = threading.Event(), time.time()

    def sign(passes: int) -> None:
        with contextlib.suppress(OSError):
            path.write_text(
                json.dumps({"chunk": chunk, "since": since, "passes": passes}), encoding="utf-8"
            )

    def beat() -> None:
        pause = FIRST_SECONDS
        while not stop.wait(pause):
            sign(pulse.passes())
            pause = min(2 * pause, BEAT_SECONDS)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    try:  # an interrupt may come before the block begins
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)  # a study folder that has gone is not made again
        sign(0)
        thread.start()
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def beats(cell_folder: Path) -> list[Beat]:
    """Return the signs in a cell's folder, by worker.

    A file that vanishes or is half written is skipped.
    """
    found, now = [], time.time()
    for path in sorted((cell_folder / "alive").glob("*.json")):
        try:
            content, heard = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
            working, passes = now - float(content["since"]), int(content.get("passes", 0))
            found.append(Beat(path.stem, str(content["chunk"]), working, now - heard, passes))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
