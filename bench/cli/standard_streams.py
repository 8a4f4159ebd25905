"""The standard streams of the process: made usable before any work, flushed after it.

Otherwise a letter that the terminal does not have could end a run after all rows are computed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from posterior_bench.bench.core.errors import UserError


def say(text: str) -> None:
    """Print a line on standard error.

    If even that is impossible, nothing is printed: the exit code then has to tell of the error.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"bench: {text}", file=sys.stderr, flush=True)


def prepare_streams() -> None:
    r"""Make output possible on every terminal.

    A letter that the terminal does not have is written as ``\u2713``. A closed stream is replaced
    by one to the null device. Its descriptor must be taken: the next file that is opened would get
    it, and the output of libraries would land in that file.
    """
    try:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(descriptor)
    except OSError:  # no file can be opened at all: the first file that is needed reports it
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
    """Refuse arguments that are not valid UTF-8, because no file could store them.

    Raises
    ------
    UserError
        With the first such argument.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"'{argument}' is not valid UTF-8; give it, or the file that it names, another name"
            ) from None


def flush() -> OSError | None:
    """Write out the printed text.

    Returns
    -------
    OSError or None
        The error if that is impossible. Standard output is then silent, also at exit.
    """
    try:
        sys.stdout.flush()
        return None
    except OSError as error:
        silence()
        return error


def silence() -> None:
    """Send standard output to the null device from now on, with the text that still waits."""
    # a stream without a descriptor has no text that waits at exit
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
