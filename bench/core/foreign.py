"""Run code of other people (solvers, metrics, data sets) so that its errors are ordinary ones.

``sys.exit`` in a solver must not look like the end of a good run. An exception whose text cannot be
made, stored or printed must not take the row that reports it with it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Literal, NoReturn, Self

from posterior_bench.bench.core import signals

MOST = 1000
"""Characters of a message that are kept; an exception may quote a whole array."""


class Left(RuntimeError):
    """Code raised an exception that ``except Exception`` does not catch.

    Examples are SystemExit, GeneratorExit and a KeyboardInterrupt of its own. The text is the line
    that :func:`described` returns for the exception.
    """


class foreign:  # used like a function
    """Context manager for a block in which code of other people runs.

    The block ends without an error, with an Exception, or because a person stops it. After a signal
    it never ends without an error: results that were made meanwhile may be half done.
    """

    def __enter__(self) -> Self:
        signals.check()
        signals.enter_foreign()
        self._exit = os._exit
        os._exit = _refusing(os.getpid())  # type: ignore[assignment]  # it would end the process with any code
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        os._exit = self._exit
        signals.leave_foreign()
        if signals.came() and not isinstance(error, KeyboardInterrupt):
            signals.check()
        if (
            error is None
            or isinstance(error, Exception)
            or signals.is_stop(error)
            or _of_the_launcher(error)
        ):
            return False
        raise Left(described(error)) from error


def _of_the_launcher(error: BaseException) -> bool:
    """Return whether submitit ends its job to queue it again, before a time limit.

    Its signal handler raises SystemExit in whatever code runs.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, SystemExit) and bool(frames) and "/submitit/" in frames[-1].filename


_EXIT = os._exit


def _refusing(owner: int) -> Callable[[int], NoReturn]:
    """Return a replacement for ``os._exit``; processes that foreign code forked may still exit."""

    def leave(status: int = 0) -> NoReturn:
        if os.getpid() != owner:
            _EXIT(status)
        raise SystemExit(f"os._exit({status})")

    return leave


def described(error: BaseException) -> str:
    """Return type, first line and place of an error, short enough for a table."""
    if isinstance(error, Left):
        return str(error)
    return named(error) + place(error)


def named(error: BaseException) -> str:
    """Return type and first line of an error, printable, of at most :data:`MOST` characters."""
    return shortened(printable(f"{type(error).__name__}: {text_of(error)}".splitlines()[0]))


def text_of(error: BaseException) -> str:
    """Return the start of an error's text, whatever its ``__str__`` does."""
    try:
        # the slice is a plain string, also of a subclass with methods of its own
        return str.__getitem__(str(error), slice(0, 4 * MOST))
    except BaseException as problem:
        signals.check()
        return f"(its text cannot be made: {type(problem).__name__})"


def place(error: BaseException) -> str:
    """Return file and line where an error was raised, in brackets; empty if unknown."""
    try:
        frames = traceback.extract_tb(error.__traceback__)
    except Exception:  # of a traceback that foreign code has put together
        return ""
    return (
        printable(f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})")
        if frames
        else ""
    )


def printable(text: str) -> str:
    """Return ``text`` with escapes for characters that cannot be printed or stored.

    Examples are NUL, lone surrogates and control characters.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """Return ``text`` cut to :data:`MOST` characters."""
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
