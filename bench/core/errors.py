"""Errors a user can act on: printed as one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FAILED, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
"""Exit codes besides 0 (docs/command-line.md): some rows are not ok; the input was wrong, no worker
can start, or the machine refused; an error inside this program; SIGINT; SIGTERM."""


class UserError(Exception):
    """What was wrong, what is valid, what to do; in one line, also where it quotes what is not
    printable.
    """

    def __str__(self) -> str:
        line = " ".join(super().__str__().splitlines())
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class WrongCell(UserError):
    """A file with rows of one cell lies in the folder of another, or a cell's folder has another
    cell's name.

    Nobody counts its rows, writes over it or sets it aside: only a person knows where it belongs.
    """


class DeviceLost(UserError):
    """The device of a worker answers no more; rows that were stored are whole, and another process
    can go on.
    """


class TimeoutExceeded(RuntimeError):
    """A chunk took longer than the setting ``timeout`` allows."""


class Inapplicable(UserError):
    """Nothing is wrong with the parts, but they do not fit together; a study over many solvers may
    skip the cell.
    """


def unknown(kind: str, given: str, valid: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest valid one first."""
    names = sorted(valid)
    near = nearest(given, names)
    hint = f" Did you mean '{near}'?" if near else ""
    return UserError(f"unknown {kind} '{given}'.{hint} Valid: {', '.join(names)}")


def nearest(given: str, names: Iterable[str]) -> str | None:
    """The name that somebody who typed ``given`` most likely meant; None where none is like it.

    The fewest mistakes of typing (:func:`mistakes`), at most one in three letters; of several such
    names one with the same first letter, then the largest share of common letters. That share alone
    where there is no such name.
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
    """How many letters must be added, left out, replaced or swapped with their neighbour to get
    ``b`` from ``a``.
    """
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
