"""Signs of life beside the rows, so that anyone who sees the study folder knows which chunk is being worked on."""

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

BEAT_SECONDS = 15.0
STALLED_SECONDS = 90.0
"""A worker that has been silent for this long is dead or cut off: six beats are missing."""


@dataclass(frozen=True)
class Beat:
    """A worker's last sign: where it runs, its chunk, seconds since it took that and since it was last heard."""

    worker: str
    chunk: str
    working: float
    silent: float

    @property
    def fresh(self) -> bool:
        return self.silent < STALLED_SECONDS


@contextmanager
def beating(cell_folder: Path, chunk: str) -> Iterator[None]:
    """Keep a sign in ``<cell folder>/alive`` while the block runs: one small file per worker process.

    It is a courtesy to people who look: where it cannot be written, work goes on without.
    """
    path = cell_folder / "alive" / f"{socket.gethostname().replace('/', '-')}.{os.getpid()}.json"
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(path)

    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)  # a study folder that has gone is not made again
        path.write_text(json.dumps({"chunk": chunk, "since": time.time()}), encoding="utf-8")
    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def beats(cell_folder: Path) -> list[Beat]:
    """The signs in a cell's folder, by worker; a file that vanishes or is half written is passed over."""
    found, now = [], time.time()
    for path in sorted((cell_folder / "alive").glob("*.json")):
        try:
            content, heard = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
            found.append(Beat(path.stem, str(content["chunk"]), now - float(content["since"]), now - heard))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
