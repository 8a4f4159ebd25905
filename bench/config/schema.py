"""The typed top level of the configuration; groups are checked against their YAML files
(:mod:`bench.config.overrides`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


@dataclass
class Config:
    """Everything ``python -m bench`` takes, groups apart."""

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
    batch: int = 16
    out: str | None = None
    budget: str | None = None
    timeout: float | None = None
    threads: int | None = None
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    checkpointing: str = "none"
    plugins: list[str] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)
    retry: bool = False
    trace: bool = False
    sheet: bool = True
    report: bool = True
    logger: str | None = None
    quiet: bool = False


def study_folder(out: str | None, name: str) -> str:
    """``out``, or ``runs/<name>`` in the working directory."""
    return str(Path(out) if out else Path("runs") / name)


def register() -> None:
    """Make the schema and the resolvers known to Hydra; safe to call twice."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
