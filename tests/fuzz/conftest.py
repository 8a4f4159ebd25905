"""How many examples: a few each, or with ``HYPOTHESIS_PROFILE=long`` a thousand of every class."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from tests.bench.conftest import command, photos

__all__ = ["command", "photos"]

_COMMON = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "print_blob": True,
}
settings.register_profile("short", max_examples=12, derandomize=True, **_COMMON)
settings.register_profile("long", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
