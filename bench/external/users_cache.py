"""The user's cache folder of this product."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def users_cache() -> Path | None:
    """Return the user's cache folder of this product; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    with suppress(RuntimeError):
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "posterior-bench"
    return None
