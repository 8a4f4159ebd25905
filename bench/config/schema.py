"""The settings of the top level, typed for Hydra.

Groups are checked against their YAML files (:mod:`bench.config.overrides`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MISSING: Any = "???"
"""``omegaconf.MISSING``, written out: Hydra and OmegaConf load slowly."""

AUTO_BATCH = "auto"
"""The value of ``batch`` that stands for the largest batch that fits."""


@dataclass
class Config:
    """Every setting of the top level with its default; groups hold whatever their options say."""

    solver: Any = MISSING
    data: Any = MISSING
    mask: Any = MISSING
    operator: Any = MISSING
    prior: Any = MISSING
    metrics: Any = field(default_factory=dict)
    executor: Any = MISSING
    study: Any = MISSING
    scale: Any = MISSING
    seed: int = 0
    draws: int = 4
    batch: int | str = 16
    out: str | None = None
    budget: str | None = None
    timeout: float | None = None
    threads: int | None = None
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    checkpointing: str = "none"
    frozen_convolutions: bool = False
    tile: int = 0
    offload: bool = False
    plugins: list[str] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)
    retry: bool = False
    trace: bool = False
    sheet: bool = True
    report: bool = True
    logger: str | None = None
    quiet: bool = False


def defaults() -> dict[str, Any]:
    """Return every setting with its default; a group has none, and is empty here."""
    return {key: {} if value == MISSING else value for key, value in asdict(Config()).items()}


def study_folder(out: str | None, name: str) -> str:
    """Return ``out``, or ``runs/<name>`` in the working directory."""
    return str(Path(out) if out else Path("runs") / name)


def register() -> None:
    """Make the schema and the resolvers known to Hydra; a second call changes nothing."""
    # only here: a mistake in the settings is answered without Hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
