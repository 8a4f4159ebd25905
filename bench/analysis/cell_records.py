"""What the cells of a study say of themselves in their ``config.yaml``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from posterior_bench.bench.analysis import provenance
from posterior_bench.bench.store.study_files import read_cell

Card = Mapping[str, str]


@dataclass(frozen=True)
class CellRecord:
    """What a cell's ``config.yaml`` says; ``planned``: the image ids, each with all draws.

    ``sets``: the configuration of each metric whose rows hold features. ``padded_batch``: the
    network rows that every batch was planned with, 0 where that is not recorded. ``nodes``: the
    configuration of each metric. ``stale``: the metrics that an earlier version of the product
    computed in another way; they are in ``metrics``, and nowhere else. ``sigma``: the noise on the
    measurement.
    """

    name: str
    folder: Path
    identity: Mapping[str, object]
    metrics: Mapping[str, Card]
    sets: Mapping[str, Mapping[str, object]]
    planned: frozenset[str]
    commit: str
    dirty: bool | None
    padded_batch: int = 0
    nodes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    sigma: float = 0.0

    @property
    def draws(self) -> int:
        return int(str(self.identity["draws"]))


def read_cells(study: Path | str) -> list[CellRecord]:
    """What every cell of a study says of itself. Raises ValueError for a folder without cells."""
    study = Path(study)
    paths = sorted(study.glob("cells/*/config.yaml"))
    if not paths:
        raise ValueError(
            f"{study} is not a study folder: it has no cells/*/config.yaml; name one with out=DIR"
        )
    environment = study / "environment.json"
    shared = json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {}
    return provenance.without_stale([_cell(path, shared) for path in paths])


def _cell(path: Path, environment: Mapping[str, object]) -> CellRecord:
    config = read_cell(path)
    origin = {**environment, **(config.get("provenance") or {})}
    cards, nodes = config.get("metrics") or {}, (config.get("config") or {}).get("metrics") or {}
    return CellRecord(
        name=str(config["cell"]),
        folder=path.parent,
        identity=config["identity"],
        metrics=cards,
        sets={
            name: nodes[name]
            for name, card in cards.items()
            if card.get("level") == "set" and name in nodes
        },
        planned=frozenset(map(str, chain.from_iterable(config["chunks"].values()))),
        commit=str(origin.get("commit") or ""),
        dirty=origin.get("dirty"),
        padded_batch=_padded_batch(config),
        nodes={name: node for name, node in nodes.items() if name in cards},
        sigma=float(((config.get("config") or {}).get("operator") or {}).get("sigma") or 0),
    )


def _padded_batch(config: Mapping[str, Any]) -> int:
    draws, batch = (
        int(config["identity"].get("draws") or 0),
        int((config.get("config") or {}).get("batch") or 0),
    )
    return int(config.get("padded") or 0) * min(draws, batch)
