"""The software and machine that a study ran with, so that it can be run again.

The commit is that of the product, never that of a surrounding repository. The git checkout counts
only if its top level is the folder of our packages; else the installed distribution says its
version and the commit it was built from.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "posterior-bench"
BUILD = ROOT / "bench" / "build.json"
"""In a wheel: ``commit`` and ``dirty`` of the checkout that it was built from (hatch_build.py)."""

PACKAGES = (
    *(
        "torch",
        "torchvision",
        "diffusers",
        "safetensors",
        "numpy",
        "scipy",
        "pandas",
        "pyarrow",
        "torchmetrics",
    ),
    *(
        "lpips",
        "stlpips-pytorch",
        "hydra-core",
        "omegaconf",
        "pillow",
        "matplotlib",
        "ray",
        "deepinv",
        "opencv-python-headless",
    ),
)


@cache
def environment() -> dict[str, Any]:
    """Return versions, lock hash, origin of the code and machine, in plain types.

    There is no user name, path or shell variable in it.
    """
    lock = ROOT / "requirements.lock"
    return {
        "version": version(),
        **origin(),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        **_torch(),
    }


def version() -> str:
    """Return the version of this product: of the checkout, else of the installed distribution."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == NAME:
            return str(project["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        pass
    return _version(NAME) or "unknown"


def origin() -> dict[str, Any]:
    """Return ``commit`` and ``dirty`` of the code that runs.

    ``dirty`` says whether files differ from that commit; None if that is unknown. The facts come
    from a checkout whose top level is ours, else from the wheel or the installer.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
        return {"commit": commit or "unknown", "dirty": bool(changes) or commit is None}
    built = _built()
    dirty = built.get("dirty")
    return {
        "commit": str(built.get("commit") or "unknown"),
        "dirty": dirty if isinstance(dirty, bool) else None,
    }


def _built() -> dict[str, Any]:
    """Return the recorded facts about the build of an installed distribution."""
    try:
        built = json.loads(BUILD.read_text(encoding="utf-8"))
        if isinstance(built, dict):
            return built
    except (OSError, ValueError):
        pass
    try:
        direct = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
        return {"commit": direct["vcs_info"]["commit_id"], "dirty": False}
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _torch() -> dict[str, Any]:
    """Return facts about devices if torch is loaded; it is not loaded for that."""
    if "torch" not in sys.modules:
        return {}
    # heavy, and asked only where it is loaded already
    import torch

    from posterior_bench.bench.core.gpu_versions import cudnn_version, driver_version

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "devices": gpus or ["cpu"],
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": cudnn_version(),
        "driver": driver_version(),
    }


def _git(*arguments: str) -> str | None:
    """Return git's answer about our checkout; None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
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
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()
