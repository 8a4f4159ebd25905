"""Read the ``config.yaml`` of every cell of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from posterior_bench.bench.store.study_files import read_cell

Card = Mapping[str, str]


@dataclass(frozen=True)
class CellRecord:
    """The facts in the ``config.yaml`` of a cell.

    Parameters
    ----------
    name : str
        Name of the cell.
    folder : Path
        Its folder.
    identity : mapping
        Solver, data, mask and the other names of the cell.
    metrics : mapping of str to Card
        The card of each metric.
    sets : mapping of str to mapping
        The configuration of each metric that is one number from all images.
    planned : frozenset of str
        The image ids; each has all draws.
    commit : str
        The commit it was planned with.
    dirty : bool | None
        Whether files differed from that commit.
    padded_batch : int, default 0
        Network rows in every planned batch; 0 if that is not recorded.
    nodes : mapping of str to mapping
        The configuration of each metric.
    stale : frozenset of str
        Metrics that an earlier version of the product computed in another way.
    sigma : float, default 0.0
        The noise on the measurement.
    auto : mapping
        How a cell with ``data.images=auto`` stopped; empty for other cells.
    budget : str, default ''
        What a draw may cost, as ``budget=`` says it; empty where nothing was limited.
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
    auto: Mapping[str, Any] = field(default_factory=dict)
    budget: str = ""

    @property
    def draws(self) -> int:
        """Return how many draws each image has."""
        return int(str(self.identity["draws"]))


def read_cells(study: Path | str) -> list[CellRecord]:
    """Return the record of every cell of a study.

    Raises
    ------
    ValueError
        If the folder has no cells.
    """
    study = Path(study)
    paths = sorted(study.glob("cells/*/config.yaml"))
    if not paths:
        raise ValueError(
            f"{study} is not a study folder: it has no cells/*/config.yaml; name one with out=DIR"
        )
    environment = study / "environment.json"
    shared = json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {}
    return without_stale([_cell(path, shared) for path in paths])


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
        auto=config.get("auto") or {},
        budget=str((config.get("config") or {}).get("budget") or ""),
    )


def _padded_batch(config: Mapping[str, Any]) -> int:
    draws, batch = (
        int(config["identity"].get("draws") or 0),
        int((config.get("config") or {}).get("batch") or 0),
    )
    return int(config.get("padded") or 0) * min(draws, batch)


# -- metrics that have changed ---------------------------------------------------------------------


def without_stale(cells: Sequence[CellRecord]) -> list[CellRecord]:
    """Return the cells with ``stale`` metrics: those that an earlier version computed otherwise."""
    nodes = {name: node for cell in cells for name, node in cell.nodes.items()}
    newest: dict[str, int] = {}
    for cell in cells:
        for name, card in cell.metrics.items():
            newest[name] = max(newest.get(name, 1), card_version(card))
    for name, node in nodes.items():
        newest[name] = max(newest.get(name, 1), _present(json.dumps(node, sort_keys=True)))
    return [_without_stale(cell, newest) for cell in cells]


def card_version(card: Mapping[str, Any]) -> int:
    """Return the version of a recorded card; cards before version 0.2.0 have none, which is 1."""
    return int(card.get("version") or 1)


def _without_stale(cell: CellRecord, newest: Mapping[str, int]) -> CellRecord:
    stale = frozenset(
        name for name, card in cell.metrics.items() if card_version(card) < newest[name]
    )
    # before 0.2.0, which is when cards began to say a version, the residual of noisy measurements
    # was ranked too
    if cell.sigma > 0 and "version" not in cell.metrics.get("consistency", {"version": 1}):
        stale |= {"consistency"}
    return replace(
        cell,
        stale=stale,
        sets={name: node for name, node in cell.sets.items() if name not in stale},
    )


@cache
def _present(node: str) -> int:
    """Return the version of a metric as this product computes it; 1 if it cannot be built here."""
    # loads the class of a metric, and with it torch: reading a study without it stays quick
    from posterior_bench.bench.config.build import build

    try:
        return int(getattr(build(json.loads(node)).card, "version", 1))
    # of a plugin that is not there, or a package that is missing: it was not computed here either
    except Exception:
        return 1
