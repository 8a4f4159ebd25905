"""Where compiled code of networks is kept, so that every worker of a machine finds it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.external.users_cache import users_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable by which torch finds its compiled code."""


def share_compiled_code() -> None:
    """Let torch keep compiled code in the user's cache folder, for later runs and other workers.

    A folder that the variable names already stays. Torch takes its own folder under ``/tmp`` where
    the user's cache cannot be written.
    """
    cache = users_cache()
    if VARIABLE in os.environ or cache is None:
        return
    # machines of different processors may share a home, and torch compiles for its own processor
    folder = cache / "compiled" / digest([torch.__version__, platform.machine(), _processor()])
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[VARIABLE] = str(folder)


def _processor() -> str:
    """Return what the processor can do, or its name."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.processor()
