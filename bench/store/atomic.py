"""Write a file as a whole: a reader, or a crash, sees the old file or the new one."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_STALE_SECONDS = 3600


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``, all or nothing.

    The bytes go to a dot-file in the same folder, which is synced and renamed. The folder is synced
    too, so that the rename survives a power loss.
    """
    _write(path, data, os.replace)


def write_first(path: Path, data: bytes) -> None:
    """Write a file as :func:`write_atomic` does, unless there is one; then it stays as it is."""

    def link(part: Path, path: Path) -> None:
        with suppress(FileExistsError):
            os.link(part, path)
        part.unlink()

    _write(path, data, link)


def _write(path: Path, data: bytes, put: Callable[[Path, Path], None]) -> None:
    part = path.with_name(f".{path.name}.{host_name()}.{os.getpid()}.{time.time_ns()}.tmp")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def is_stale(path: Path) -> bool:
    """Return whether a dot-file was left behind: its writer is dead, or it is older than an hour.

    A process number says nothing about processes of another host, so only the age counts there.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    _, host, process, _, _ = path.name.rsplit(".", 4)
    return age > _STALE_SECONDS or (host == host_name() and not _is_alive(int(process)))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def host_name() -> str:
    """Return the name of this host, in characters that a file name may have."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
