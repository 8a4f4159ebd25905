"""Errors that a user can act on: printed as one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FAILED, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
"""Exit codes besides 0 (docs/command-line.md): some rows are not ok; the input was wrong, no worker
can start, or the machine refused; an error inside this program; SIGINT; SIGTERM."""


class UserError(Exception):
    """What was wrong, what is valid, what to do.

    Its text is one line, and characters that cannot be printed are escaped.
    """

    def __str__(self) -> str:
        line = " ".join(super().__str__().splitlines())
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class WrongCell(UserError):
    """A file of one cell lies in the folder of another, or a cell's folder has another cell's name.

    Nothing counts its rows, overwrites it or sets it aside: only a person knows where it belongs.
    """


class DeviceLost(UserError):
    """The device of a worker no longer answers.

    Stored rows are intact, and another process can continue.
    """


class TimeoutExceeded(RuntimeError):
    """A chunk took longer than the setting ``timeout`` allows."""


class Inapplicable(UserError):
    """The parts are valid but do not fit together.

    A study over many solvers may skip the cell.
    """


def unknown(kind: str, given: str, valid: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest valid name first."""
    names = sorted(valid)
    near = nearest(given, names)
    hint = f" Did you mean '{near}'?" if near else ""
    return UserError(f"unknown {kind} '{given}'.{hint} Valid: {', '.join(names)}")


def nearest(given: str, names: Iterable[str]) -> str | None:
    """Return the valid name that the typed one most likely means; None if none is similar.

    The name with the fewest typing mistakes (:func:`mistakes`) wins, at most one per three letters.
    Of several such names, one with the same first letter wins, then the one with the largest share
    of common letters. If no name is that close, the share of common letters decides alone.
    """
    names, typed = sorted(names), given.lower()

    def order(name: str) -> tuple[int, bool, float]:
        alike = difflib.SequenceMatcher(None, typed, name.lower()).ratio()
        return mistakes(typed, name.lower()), name[:1].lower() != typed[:1], -alike

    best = min(names, key=order, default=None)
    if best is not None and len(typed) > 1 and order(best)[0] <= max(1, len(typed) // 3):
        return best
    alike = difflib.get_close_matches(given, names, n=1)
    return alike[0] if alike else None


def mistakes(a: str, b: str) -> int:
    """Count the letters to add, drop, replace or swap with a neighbour to turn ``a`` into ``b``."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
