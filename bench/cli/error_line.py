"""One line for an error that no verb has expected, and a file with its traceback."""

from __future__ import annotations

import errno
import os
import re
import time
import traceback
from pathlib import Path
from tempfile import gettempdir

from posterior_bench.bench.core.errors import BAD_INPUT, BUG, UserError

_LONGEST = 600
"""Letters of an error's message that are printed."""

_CONTINUE = "what is stored is kept, and the same command goes on"
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
"""What to do about errors of the machine, which need no traceback."""


def error_line(error: BaseException) -> tuple[str, int]:
    """Describe an error that no verb has expected.

    Parameters
    ----------
    error : BaseException
        Any error but a ``UserError``.

    Returns
    -------
    line : str
        What went wrong, what to do, and the file with the traceback. An error of the machine (a
        full disk, too little memory, and so on) gets no traceback.
    code : int
        The exit code: ``BAD_INPUT`` or ``BUG``.
    """
    number = _machine_error(error)
    if number in _ADVICE:
        name = getattr(error, "filename", None)
        place = f" ({name})" if name else ""
        text = f"{os.strerror(number)}{place}; {_ADVICE[number]}; {_CONTINUE}"
        return str(UserError(text)), BAD_INPUT
    if isinstance(error, ImportError) and _lacks_descriptors(error):
        return str(UserError(f"{_message(error)}; {_ADVICE[errno.EMFILE]}")), BAD_INPUT
    hint = ""
    if isinstance(error, RecursionError):
        hint = "; a file is nested too deeply to be read"
    if isinstance(error, MemoryError):
        hint = f"; {_ADVICE[errno.ENOMEM]}"
    of_input = isinstance(error, OSError | RecursionError | MemoryError | UnicodeError)
    line = f"{type(error).__name__}: {_message(error)}{hint} ({_write_traceback(error)})"
    return str(UserError(line)), BAD_INPUT if of_input else BUG


def _machine_error(error: BaseException) -> int:
    """Return the error number of the operating system, or 0 for other errors.

    Some libraries write the number into their message only.
    """
    if not isinstance(error, OSError):
        return 0
    match = re.search(r"\[errno (\d+)\]", _message(error), re.IGNORECASE)
    return error.errno or (int(match[1]) if match else 0)


def _message(error: BaseException) -> str:
    """Return an error's message as one line of bounded length, also if its class cannot say it."""
    try:
        text = " ".join(str(error).split())
    except Exception as second:
        text = f"(its message cannot be read: {type(second).__name__})"
    return f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text or "no message"


def _write_traceback(error: BaseException) -> str:
    """Write the traceback to a file, and say which."""
    try:
        text = "".join(traceback.format_exception(error))
        path = Path(gettempdir()) / f"bench-traceback-{os.getpid()}-{time.time_ns()}.txt"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except Exception as second:
        return f"its traceback could not be written either: {type(second).__name__}"
    return f"traceback: {path}"


def _lacks_descriptors(error: BaseException | None) -> bool:
    """Tell whether an import failed because no more files may be open.

    Some libraries say that in their message only.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        if os.strerror(errno.EMFILE) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
