"""Provenance: what a study was run with, so that it can be run again."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("torch", "torchvision", "diffusers", "safetensors", "numpy", "scipy", "pandas", "pyarrow", "torchmetrics"),
    *("lpips", "stlpips-pytorch", "hydra-core", "omegaconf", "pillow", "matplotlib", "ray", "deepinv"),
)


@cache
def environment() -> dict[str, Any]:
    """Versions, lock hash, git state and machine, in plain types. No user name, path or variable of the shell."""
    lock = ROOT / "requirements.lock"
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit or "unknown",
        "dirty": bool(changes) or commit is None,
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        **_torch(),
    }


def _torch() -> dict[str, Any]:
    """Device facts, if torch is loaded; a reader of results does not load it for that."""
    if "torch" not in sys.modules:
        return {}
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"devices": gpus or ["cpu"], "threads": torch.get_num_threads(), "cuda": torch.version.cuda}


def _git(*arguments: str) -> str | None:
    """git's answer about the checkout this code runs from; None outside a checkout or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
