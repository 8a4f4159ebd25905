"""Being stopped: Ctrl-C, and the SIGTERM of schedulers and service managers, end a run in the same orderly way."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

CONTINUED = ("run", "score", "compact")
"""Verbs that go on where they were when the same command is given again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; like Ctrl-C no ``except Exception`` may keep it from ending the process."""


def heed_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does; called again after a library has put its own handler in place."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the unwinding
    raise Terminated


def farewell(verb: str, arguments: Sequence[str]) -> str:
    """One line: what happened, and the command that continues."""
    if verb not in CONTINUED:
        return "bench: interrupted"
    start = "bench" if Path(sys.argv[0]).name == "bench" else "python -m bench"
    return f"bench: interrupted; what is stored is kept. To continue: {start} {shlex.join(arguments)}".rstrip()
