"""Errors a user can act on: printed as one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes besides 0: some rows are not ok; the input was wrong, or no worker can start; SIGINT, SIGTERM."""


class UserError(Exception):
    """What was wrong, what is valid, what to do; in one line, also where it quotes what is not printable."""

    def __str__(self) -> str:
        line = " ".join(super().__str__().splitlines())
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class WrongCell(UserError):
    """A file with rows of one cell lies in the folder of another, or a cell's folder has another cell's name.

    Nobody counts its rows, writes over it or sets it aside: only a person knows where it belongs.
    """


class DeviceLost(UserError):
    """The device of a worker answers no more; rows that were stored are whole, and another process can go on."""


class TimeoutExceeded(RuntimeError):
    """A chunk took longer than the setting ``timeout`` allows."""


class Inapplicable(UserError):
    """Nothing is wrong with the parts, but they do not fit together; a study over many solvers may skip the cell."""


def unknown(kind: str, given: str, valid: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest valid one first."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {kind} '{given}'.{hint} Valid: {', '.join(names)}")
