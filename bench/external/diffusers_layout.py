"""Folders in the layout of the diffusers library: found, and read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DENOISERS = ("unet", "transformer")


_TEXT = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
"""Networks that are told a prompt."""


def diffusers_folder(path: Path) -> Path | None:
    """Return the folder of diffusers that ``path`` means; None if there is none.

    ``path`` may be the folder, its ``model_index.json``, its network, or a folder of the hub's
    cache with one snapshot.
    """
    if path.name == "model_index.json" and path.is_file():
        return path.parent
    if _is_pipeline(path):
        return path
    if (path / "config.json").is_file() and "_class_name" in json_of(path / "config.json"):
        # the network of a folder; the schedule, without which it says nothing, lies beside it
        beside = path.name in _DENOISERS and not _has_schedule(path) and _is_pipeline(path.parent)
        return path.parent if beside else path
    snapshots = [found for found in path.glob("snapshots/*") if _is_pipeline(found)]
    return snapshots[0] if len(snapshots) == 1 else None


def _is_pipeline(folder: Path) -> bool:
    if (folder / "model_index.json").is_file():
        return True
    return _has_schedule(folder) and any(
        (folder / name / "config.json").is_file() for name in _DENOISERS
    )


def _has_schedule(folder: Path) -> bool:
    return any((folder / name / "scheduler_config.json").is_file() for name in ("scheduler", "."))


def json_of(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it is none, which the conversion then reports."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _denoiser(folder: Path) -> dict[str, Any]:
    places = (folder / name / "config.json" for name in (*_DENOISERS, "."))
    return next((json_of(place) for place in places if place.is_file()), {})


def takes_prompts(folder: Path) -> bool:
    """Return whether the network in a folder is given a prompt."""
    return _denoiser(folder).get("_class_name") in _TEXT


def _name(folder: Path) -> str:
    """Return the name of the model in tables: the class of its pipeline, else of its network."""
    name = str(
        json_of(folder / "model_index.json").get("_class_name")
        or _denoiser(folder).get("_class_name")
    )
    return name if name.isidentifier() else "diffusers"
