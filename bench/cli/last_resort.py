"""What nobody foresaw: one line instead of a traceback, and the traceback in a file.

Also the terminal and the descriptors of the process, made fit before any work: a letter that a
terminal does not have must not end a run whose rows are all computed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir

from posterior_bench.bench.core.errors import BAD_INPUT, BUG, UserError

_LONGEST = 600
"""Letters of an error's message that are printed."""

_KEPT = "what is stored is kept, and the same command goes on"
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your quota on that disk is used up; free some space or ask for more",
    errno.EFBIG: "a limit on the size of files is reached (ulimit -f); raise it",
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EMFILE: "too few files may be open at a time; raise the limit, for example: ulimit -n "
    "1024",
    errno.ENFILE: "the machine has too many files open; close some programs",
    errno.ENOMEM: "the machine has too little free memory; close some programs, or use a smaller "
    "batch=",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk or its network failed; look at it before anything else",
    errno.ELOOP: "a link leads to itself; remove it",
}
"""Faults of the machine, which need no traceback, with what to do."""


def last_resort(error: BaseException) -> tuple[str, int]:
    """The line for an error that no verb foresaw, and the exit code."""
    number = _number(error)
    if number in _ADVICE:
        name = getattr(error, "filename", None)
        place = f" ({name})" if name else ""
        return str(
            UserError(f"{os.strerror(number)}{place}; {_ADVICE[number]}; {_KEPT}")
        ), BAD_INPUT
    if isinstance(error, ImportError) and _open_files_are_few(error):
        return str(UserError(f"{_said(error)}; {_ADVICE[errno.EMFILE]}")), BAD_INPUT
    hint = ""
    if isinstance(error, RecursionError):
        hint = "; a file is nested too deeply to be read"
    if isinstance(error, MemoryError):
        hint = f"; {_ADVICE[errno.ENOMEM]}"
    of_input = isinstance(error, OSError | RecursionError | MemoryError | UnicodeError)
    line = f"{type(error).__name__}: {_said(error)}{hint} ({_written(error)})"
    return str(UserError(line)), BAD_INPUT if of_input else BUG


def say(text: str) -> None:
    """Print a line for people; where even that is impossible, the exit code has to do."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"bench: {text}", file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Make output possible on every terminal: letters that it does not have are written as
    ``\\u2713``.

    A closed stream becomes one to nowhere. Its number must be taken, or the next file that is
    opened would get it, and whatever a library prints would land in that file.
    """
    try:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(descriptor)
    except OSError:  # no file can be opened at all; the first that is needed says so
        pass
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def refuse_broken_text(arguments: Sequence[str]) -> None:
    """UserError for an argument that is not valid in the encoding of the system: it could be stored
    nowhere.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"'{argument}' is not valid UTF-8; give it, or the file that it names, another name"
            ) from None


def flush() -> OSError | None:
    """Write out what was printed; the error where that is impossible, and then nothing more is
    tried at exit.
    """
    try:
        sys.stdout.flush()
        return None
    except OSError as error:
        silence()
        return error


def silence() -> None:
    """Send standard output to nowhere from here on, what is still waiting included."""
    with contextlib.suppress(
        OSError, ValueError
    ):  # a stream without a descriptor has nothing that waits at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _number(error: BaseException) -> int:
    """The number of a fault of the machine; some libraries only write it into their message. 0 for
    other errors.
    """
    if not isinstance(error, OSError):
        return 0
    found = re.search(r"\[errno (\d+)\]", _said(error), re.IGNORECASE)
    return error.errno or (int(found[1]) if found else 0)


def _said(error: BaseException) -> str:
    """An error's message in one line of bounded length, whatever its class does."""
    try:
        text = " ".join(str(error).split())
    except Exception as second:
        text = f"(its message cannot be read: {type(second).__name__})"
    return f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text or "no message"


def _written(error: BaseException) -> str:
    """Where the traceback was written."""
    try:
        text = "".join(traceback.format_exception(error))
        path = Path(gettempdir()) / f"bench-traceback-{os.getpid()}-{time.time_ns()}.txt"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except Exception as second:
        return f"its traceback could not be written either: {type(second).__name__}"
    return f"traceback: {path}"


def _open_files_are_few(error: BaseException | None) -> bool:
    """Whether an import failed because no more files may be open; some loaders of libraries only
    say that in words.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        if os.strerror(errno.EMFILE) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
