"""Ctrl-C, and the SIGTERM of schedulers and service managers, end a run in the same orderly way.

A signal raises an exception once, wherever the main thread is. Code of other people may swallow it
(``except:``). So the signal is also remembered: nothing is stored after it, and while such code
runs on, the exception is raised in it again every second. After :data:`PATIENCE_SECONDS` the
process ends. The memory also tells a ``KeyboardInterrupt`` that some code raised by itself from one
that a person asked for.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from posterior_bench.bench.core.errors import INTERRUPTED, TERMINATED

CONTINUED = ("run", "score", "compact")
"""Verbs that go on where they were when the same command is given again."""


AGAIN_SECONDS, PATIENCE_SECONDS = 1.0, 15.0
"""How often the exception is raised again in code that swallows it, and how long until the process
is ended."""


_END: Callable[[int], object] = os._exit  # foreign code sees another one, see bench.foreign


class Terminated(KeyboardInterrupt):
    """SIGTERM came; as for Ctrl-C, no ``except Exception`` may stop it."""


@dataclass
class _State:
    """The signals of this process.

    ``heeded``: our handlers are installed. ``number``: the first signal that came. ``depth``: how
    deep the stack is in foreign code. ``again``: the signal on its way is our own reminder.
    ``before``: the handlers that ours replaced.
    """

    heeded: bool = False
    number: int | None = None
    depth: int = 0
    again: bool = False
    before: dict[int, Any] = field(default_factory=dict)


_STATE = _State()


_ENDING = threading.Lock()
"""No signal is raised again once the handlers of before are back in their place: they may end the
process."""


def heed_signals() -> None:
    """Begin a command: forget earlier signals, and let SIGINT and SIGTERM unwind the stack."""
    _STATE.number, _STATE.depth = None, 0
    if threading.current_thread() is threading.main_thread():
        _STATE.before = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
        }
    heed_again()


def forget() -> None:
    """End a command: signals do again what they did before it."""
    with _ENDING:
        for number, handler in _STATE.before.items():
            signal.signal(number, handler)
        _STATE.number, _STATE.depth, _STATE.heeded, _STATE.before = None, 0, False, {}


def heed_again() -> None:
    """Install our handlers, also where a library has installed its own."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell starts background jobs so
        signal.signal(signal.SIGINT, _stop)
    _STATE.heeded = True


def die_at_once() -> None:
    """Let SIGTERM end a worker process at once, also in C code.

    Its files are written all or nothing.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _STATE.heeded = True


def note(number: int) -> None:
    """Remember a signal that the caller handles itself."""
    if _STATE.heeded and _STATE.number is None:
        _STATE.number = number


def came() -> bool:
    """Return whether a signal has come since the command began."""
    return _STATE.number is not None


def check() -> None:
    """Raise the exception of the signal that came, if one did; nothing may be stored after it."""
    if came():
        raise _interrupt()


def is_stop(error: BaseException) -> bool:
    """Return whether an exception is there because a person or scheduler ends the process.

    Without our handlers nobody can tell, and every KeyboardInterrupt counts as a person's.
    """
    return came() or (isinstance(error, KeyboardInterrupt) and not _STATE.heeded)


def exit_code() -> int:
    """Return 143 after SIGTERM, else 130.

    Exceptions of libraries that catch ours and raise their own do not matter.
    """
    return TERMINATED if _STATE.number == signal.SIGTERM else INTERRUPTED


def enter_foreign() -> None:
    """Mark that code runs which may swallow exceptions; see :class:`bench.core.foreign.foreign`."""
    if threading.current_thread() is threading.main_thread():
        _STATE.depth += 1


def leave_foreign() -> None:
    """Mark that such code has ended."""
    if threading.current_thread() is threading.main_thread():
        _STATE.depth = max(0, _STATE.depth - 1)


def _interrupt() -> KeyboardInterrupt:
    return Terminated() if _STATE.number == signal.SIGTERM else KeyboardInterrupt()


def _stop(number: int, frame: FrameType | None) -> None:
    again, _STATE.again = _STATE.again, False
    if _STATE.number is None:
        _STATE.number = number
        threading.Thread(target=_remind, name="stop", daemon=True).start()
        raise _interrupt()
    # a second one must not interrupt the unwinding, unless a person at the keyboard wants just that
    if _STATE.depth or (number == signal.SIGINT and not again):
        raise _interrupt()


def _remind() -> None:
    """Raise the exception again in foreign code that swallowed it; end the process at last."""
    ignored, main = 0.0, threading.main_thread()
    while _STATE.number is not None and main.is_alive():
        time.sleep(AGAIN_SECONDS)
        if not _STATE.depth or _STATE.number is None:
            ignored = 0.0
            continue
        ignored += AGAIN_SECONDS
        if ignored >= PATIENCE_SECONDS:
            words = (
                "bench: interrupted; code of a solver, metric or data set did not stop, so the "
                "process was ended\n"
            )
            os.write(2, words.encode())
            _END(exit_code())
            return
        with _ENDING:
            if _STATE.number is not None and main.ident is not None:
                _STATE.again = True
                signal.pthread_kill(main.ident, _STATE.number)


def interruption_line(verb: str, arguments: Sequence[str]) -> str:
    """One line: what happened, and the command that continues."""
    if verb not in CONTINUED:
        return "bench: interrupted"
    start = "bench" if Path(sys.argv[0]).name == "bench" else "python -m bench"
    return (
        f"bench: interrupted; what is stored is kept. To continue: {start} {shlex.join(arguments)}"
    ).rstrip()
