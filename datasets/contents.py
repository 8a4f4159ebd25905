"""Hash stored images, so that other images under the same names are noticed.

The hash is SHA-256, which processors compute in hardware. Hashes of files are kept in the user's
cache folder together with size, times and inode of the file, so that a large data set is read once.
The cache is optional: if it cannot be read or written, files are hashed again.
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
"""Size in bytes, times of modification and of change in nanoseconds, inode, hash."""


def content_hash(*parts: bytes | str) -> str:
    """Return 32 hexadecimal digits of SHA-256 over the parts and their lengths."""
    whole = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        if len(parts) > 1:
            whole.update(b"%d:" % len(data))
        whole.update(data)
    return whole.hexdigest()[:_DIGITS]


def stored_hashes(source: Source, ids: Sequence[str], root: Path) -> list[str]:
    """Hash the stored form of images.

    Files that have not changed since their last hash are not read.

    Parameters
    ----------
    source : Source
        The images of a data set.
    ids : Sequence[str]
        Ids of ``N`` images.
    root : Path
        Folder or file of the data set, which selects the cache file.

    Returns
    -------
    list[str]
        ``N`` hashes in the order of ``ids``.

    Raises
    ------
    OSError, ValueError
        For an image that cannot be read, as in ``source.stored``.
    """
    cache = Cache(root)
    hashes = [cache.known(*source.file(image)) or cache.add(source.stored(image)) for image in ids]
    cache.save()
    return hashes


class Cache:
    """Hashes of one data set, kept in one file of the cache folder.

    Processes that write at the same time replace each other's file. A file that changed within the
    last seconds is never kept: it may be written again with the same size and, within the
    resolution of the file system's clock, the same time.

    Parameters
    ----------
    root : Path
        Folder or file of the data set.
    """

    def __init__(self, root: Path):
        self._path = _folder() / f"{content_hash(str(root.expanduser().absolute()))[:16]}.json"
        self._there = _read(self._path)
        self._new: dict[str, Entry] = {}
        self._asked: tuple[str, tuple[int, int, int, int]] | None = None

    def known(self, file: str, member: str) -> str | None:
        """Return the hash of a file or of a member of it, None if the file has changed."""
        status = os.stat(file)
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        name = f"{file}\x1f{member}"
        self._asked = name, state
        entry = self._there.get(name)
        return str(entry[4]) if entry is not None and tuple(entry[:4]) == state else None

    def add(self, content: bytes) -> str:
        """Hash the content of the file that :meth:`known` was last asked for, and keep the hash."""
        assert self._asked is not None
        name, state = self._asked
        self._new[name] = (*state, content_hash(content))
        return self._new[name][4]

    def save(self) -> None:
        """Write the new hashes to the cache file; do nothing if that is impossible."""
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
                    # json.dump would be much slower than json.dumps
                    file.write(json.dumps(merged if len(merged) <= _LARGEST else settled))
                if settled:
                    os.replace(part, self._path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or ""
    with suppress(RuntimeError):  # the user has no home folder
        cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        return cache / "posterior-bench" / "contents"
    return Path(tempfile.gettempdir()) / "posterior-bench-none"


def _read(path: Path) -> dict[str, Entry]:
    """Read the entries of a cache file; entries of another form are ignored."""
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
