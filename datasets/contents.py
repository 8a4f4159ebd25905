"""Hashes of what is stored of an image, so that other pictures under the same names are noticed.

SHA-256, because processors compute it in hardware. Hashes of files are kept in the user's cache
folder, each beside size, times and inode of the file at that moment, so that a large data set is
read once. The cache is a convenience: where it cannot be read or written, files are hashed again,
and nothing fails.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from posterior_bench.datasets.source import Source

_DIGITS = 32
_SETTLED_NS = 3 * 10**9
_LARGEST = 2_000_000

Entry = tuple[int, int, int, int, str]
"""Size, times of modification and of change in nanoseconds, inode, hash."""


def content_hash(*parts: bytes | str) -> str:
    """32 hexadecimal digits of SHA-256 over the parts and their lengths."""
    whole = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        if len(parts) > 1:
            whole.update(b"%d:" % len(data))
        whole.update(data)
    return whole.hexdigest()[:_DIGITS]


def stored_hashes(source: Source, ids: Sequence[str], root: Path) -> list[str]:
    """The hash of what is stored of every image, in the order of ``ids``; files that are as before
    are not read.

    Raises OSError or ValueError for an image that cannot be read, as ``source.stored`` does.
    """
    cache = Cache(root)
    hashes = [cache.known(*source.file(image)) or cache.add(source.stored(image)) for image in ids]
    cache.save()
    return hashes


class Cache:
    """Hashes of one data set, in one file of the cache folder; processes that write at once replace
    each other's.

    A file that was changed within the last seconds is never kept: it may be written again at the
    same size, and within the resolution of the clock of its file system.
    """

    def __init__(self, root: Path):
        self._path = _folder() / f"{content_hash(str(root.expanduser().absolute()))[:16]}.json"
        self._there = _read(self._path)
        self._new: dict[str, Entry] = {}
        self._asked: tuple[str, tuple[int, int, int, int]] | None = None

    def known(self, file: str, member: str) -> str | None:
        """The hash kept for a file, or for a part of it, if the file is as it was then."""
        status = os.stat(file)
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        name = f"{file}\x1f{member}"
        self._asked = name, state
        entry = self._there.get(name)
        return str(entry[4]) if entry is not None and tuple(entry[:4]) == state else None

    def add(self, content: bytes) -> str:
        """Hash the content of the file that was asked for last, and keep that."""
        assert self._asked is not None
        name, state = self._asked
        self._new[name] = (*state, content_hash(content))
        return self._new[name][4]

    def save(self) -> None:
        """Write what is new beside what is there; nothing where that is impossible."""
        if not self._new:
            return
        with suppress(OSError, ValueError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, part = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
            try:
                now = os.stat(part).st_mtime_ns
                settled = {
                    k: e for k, e in self._new.items() if max(e[1], e[2]) < now - _SETTLED_NS
                }
                merged = {**_read(self._path), **settled}
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(
                        json.dumps(merged if len(merged) <= _LARGEST else settled)
                    )  # dump is slow
                if settled:
                    os.replace(part, self._path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or ""
    with suppress(RuntimeError):  # a user without a home
        return (
            (Path(base) if os.path.isabs(base) else Path.home() / ".cache")
            / "posterior-bench"
            / "contents"
        )
    return Path(tempfile.gettempdir()) / "posterior-bench-none"


def _read(path: Path) -> dict[str, Entry]:
    """The entries of a file; what is not as it is written here counts as absent."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: entry for name, entry in content.items() if _is_entry(entry)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 5
        and all(type(number) is int for number in entry[:4])
        and isinstance(entry[4], str)
        and len(entry[4]) == _DIGITS
    )
