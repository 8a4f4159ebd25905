"""The first line of a run: the cell, the number of rows and the device.

It is printed before torch and pandas are imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig


def first_line(cfg: DictConfig, choices: Mapping[str, Any], cells: int) -> str:
    """Return the first line of a run.

    It names the number of cells, the first cell, the number of its rows if the settings tell it,
    and the device.
    """
    title = "  ".join(
        str(choices[group]) for group in ("solver", "data", "mask") if choices.get(group)
    )
    images, draws = cfg.data.get("images"), cfg.get("draws")
    rows = ""
    if isinstance(images, int) and isinstance(draws, int):
        rows = f", {images * draws} rows ({images} images x {draws} draws)"
    several = f"{cells} cells; first " if cells > 1 else ""
    return f"{several}{title}{rows} on {_device_name(cfg)}; loading"


def _device_name(cfg: DictConfig) -> str:
    executor = cfg.get("executor") or {}
    if str(executor.get("_target_", "")).endswith("RayActors"):
        address = executor.get("address")
        return f"the Ray cluster at {address}" if address else "Ray workers of this machine"
    device = str(executor.get("device", "auto"))
    if device == "auto":  # torch knows it exactly, but takes seconds to load
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        device = "cuda" if Path("/dev/nvidiactl").exists() and not hidden else "cpu"
    return {"cpu": "the CPU", "cuda": "the GPU"}.get(device, device)
