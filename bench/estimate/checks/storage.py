"""The checks of the study folder and of the space on its disk."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.estimate.finding import Finding, State
from posterior_bench.priors.base import Prior

_ROW_BYTES = 2048
"""A row without its image: scores, counters and names."""


def study_path(config: JobConfig) -> Path:
    """Return the absolute path of the study folder."""
    return Path(study_folder(config.out, config.study["name"])).absolute()


def most_bytes(config: JobConfig, prior: Prior) -> int:
    """Return the bytes that the rows of a cell take at most: a PNG is no larger than its pixels."""
    return config.images * config.draws * (math.prod(prior.image_shape) + _ROW_BYTES)


def check_folder(config: JobConfig) -> Finding:
    """Return whether the study folder can be written."""
    study = study_path(config)
    existing = _existing(study)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("study folder", "ok", f"{study} can be written")
    found = f"{existing} cannot be written"
    return Finding("study folder", "missing", found, "choose another with out=DIR")


def check_disk(study: Path, needed: int) -> Finding:
    """Return whether the disk of a study folder has ``needed`` bytes.

    It is a warning if less than twice that is free.
    """
    free = shutil.disk_usage(_existing(study)).free
    found = f"rows take at most {needed / 2**20:.0f} MiB; {free / 2**20:.0f} MiB are free"
    state: State = "missing" if needed > free else "warning" if 2 * needed > free else "ok"
    remedy = "" if state == "ok" else "free some space, or choose another disk with out=DIR"
    return Finding("disk", state, found, remedy)


def _existing(path: Path) -> Path:
    """Return the part of a path that exists."""
    return next(part for part in (path, *path.parents) if part.exists())
