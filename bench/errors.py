"""Errors a user can act on: printed as one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes besides 0: some rows are not ok, the input was wrong, somebody pressed Ctrl-C."""


class UserError(Exception):
    """What was wrong, what is valid, what to do; in one line."""


class Inapplicable(UserError):
    """Nothing is wrong with the parts, but they do not fit together; a study over many solvers may skip the cell."""


def unknown(kind: str, given: str, valid: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest valid one first."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {kind} '{given}'.{hint} Valid: {', '.join(names)}")
