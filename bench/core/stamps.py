"""Stamps of files: names, sizes and times, by which a later process sees that nothing changed."""

from __future__ import annotations

import os
import site
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

MOST = 100_000
"""Files that are stamped at most; looking at more takes longer than it saves."""


class Stamp(NamedTuple):
    """A hash of names, sizes and times, and the newest of these times in nanoseconds."""

    digest: str
    newest: int


def stamp(paths: Iterable[Path | str], flat: Iterable[Path | str] = ()) -> Stamp | None:
    """Return the stamp of files and of everything below folders; nothing is opened.

    A path that is not there counts as absent. Compiled Python files do not count.

    Parameters
    ----------
    paths : iterable of Path or str
        Files and folders.
    flat : iterable of Path or str, default ()
        Folders that are not looked into: their own time counts.

    Returns
    -------
    Stamp or None
        None for more than :data:`MOST` files.
    """
    lines: list[str] = []
    newest = 0
    left = [os.fspath(path) for path in paths]
    own = {os.fspath(path) for path in flat}
    left += own
    while left:
        path = left.pop()
        if len(lines) + len(left) > MOST:
            return None
        try:
            if path not in own and os.path.isdir(path):
                left += [entry.path for entry in os.scandir(path) if entry.name != "__pycache__"]
                lines.append(path)
                continue
            state = os.stat(path)
        except (OSError, ValueError):  # ValueError: no file has such a name
            lines.append(f"{path}\x1fabsent")
            continue
        times = (state.st_mtime_ns, state.st_ctime_ns)
        newest = max(newest, *times)
        lines.append("\x1f".join(map(str, (path, state.st_size, *times, state.st_ino))))
    return Stamp(blake2b("\n".join(sorted(lines)).encode(), digest_size=16).hexdigest(), newest)


def packages() -> list[str]:
    """Return the folders of records of all installed packages; an installer replaces them.

    They are those that a new process finds. What this process added to its path does not count.
    """
    found = []
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for folder in {*site.getsitepackages(), site.getusersitepackages(), *own} - {""}:
        with suppress(OSError):
            found += [
                entry.path
                for entry in os.scandir(folder)
                if entry.name.endswith((".dist-info", ".egg-info", ".pth"))
            ]
    return found
