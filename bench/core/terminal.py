"""The terminal: where lines for people go, and how a duration is written."""

from __future__ import annotations

import sys

from rich.console import Console

_PLAIN_WIDTH = 160
"""Columns of a table in a file or pipe, where there is no window to fit."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

REMARKS: list[str] = []
"""What :func:`remark` has said in this process."""


def remark(line: str) -> None:
    """Say something about settings or rows that is as true when the command is given again."""
    REMARKS.append(line)
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def span(seconds: float) -> str:
    """Return a duration for people: ``48 s``, ``3 min``, ``1.6 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
