"""Write the files of a folder all or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posterior_bench.bench.engine.plan import writable


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Provide a folder to write to, which is complete or empty in the end.

    A new folder gets its name after the last file. An existing folder is emptied on an error.
    """
    folder = folder.resolve()
    new = not folder.exists()
    writable(folder.parent if new else folder)
    part = folder.with_name(f".{folder.name[:50]}.{os.getpid()}.part") if new else folder
    try:
        part.mkdir(exist_ok=True)
        yield part
        if new:
            os.replace(part, folder)
    except BaseException:
        for path in [part] if new else list(part.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
