"""Refuse a pull request that does anything but add one bundle.

``git diff --name-status BASE...HEAD | python check_changes.py`` ends with code 1 if it is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

_BUNDLE = re.compile(r"results/[A-Za-z0-9][A-Za-z0-9_-]{0,63}/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.zip")


def problems(lines: Iterable[str]) -> list[str]:
    """Return why a pull request is refused.

    Parameters
    ----------
    lines : iterable of str
        The output of ``git diff --name-status``: a letter, a tab, a path.
    """
    changes = [line.rstrip("\n").split("\t") for line in lines if line.strip()]
    found = [
        f"{change[-1]}: a pull request adds one file results/NAME/BUNDLE.zip and changes no other"
        for change in changes
        if change[0] != "A" or len(change) != 2 or not _BUNDLE.fullmatch(change[1])
    ]
    if len(changes) != 1:
        found.append(f"{len(changes)} files are changed; send one bundle per pull request")
    return found


if __name__ == "__main__":
    refused = problems(sys.stdin)
    print("\n".join(refused) or "adds one bundle")
    sys.exit(1 if refused else 0)
