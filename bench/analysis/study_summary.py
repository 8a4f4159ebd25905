"""Read the rows of a study and reduce them to what tables and comparisons need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis import provenance
from posterior_bench.bench.analysis.cell_records import (
    Card,
    CellRecord,
    card_version,
    read_cells,
)
from posterior_bench.bench.analysis.columns import COSTS, IDENTITY, labels
from posterior_bench.bench.config.task_versions import FIRST
from posterior_bench.bench.core.cost import total_passes
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import BULKY, FIXED, TRUTH


@dataclass(frozen=True)
class StudySummary:
    """The rows of a study, reduced.

    Parameters
    ----------
    cells : sequence of CellRecord
        The records of its cells.
    parts : sequence of CellSummary
        Their reduced rows.
    metrics : mapping
        Title, direction and unit of every metric.
    lines : DataFrame
        A line per cell without its numbers, ``solver`` as configured and ``label`` as shown.
    images : DataFrame
        The value of every metric that has one per image, by cell and image, draws averaged.
    """

    cells: Sequence[CellRecord]
    parts: Sequence[CellSummary]
    metrics: Mapping[str, dict[str, str]]
    lines: pd.DataFrame
    images: pd.DataFrame


def summarise_study(study: Path | str) -> StudySummary:
    """Read every cell of a study.

    Raises
    ------
    ValueError
        If the folder has no cells.
    """
    cells = read_cells(study)
    with ThreadPoolExecutor(
        2
    ) as pool:  # the next cell is read meanwhile; two cells' rows in memory at a time
        parts = list(pool.map(summarise_cell, cells))
    metrics = _metrics(cells, dict.fromkeys(name for part in parts for name in part.columns))
    lines = pd.DataFrame([part.line for part in parts])
    lines["label"] = labels(lines.assign(data=provenance.data_labels(lines)))
    in_sets = {name for cell in cells for name in cell.sets}
    images = pd.concat(
        {cell.name: part.means for cell, part in zip(cells, parts, strict=True)}, names=["cell"]
    )
    images = images.reindex(columns=[name for name in metrics if name not in in_sets]).astype(float)
    return StudySummary(cells, parts, metrics, lines, images)


def _metrics(cells: Sequence[CellRecord], columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return every metric of any cell in the order of the configurations, then other columns."""
    cards: dict[str, Card] = {}
    for cell in sorted(cells, key=lambda cell: -len(cell.metrics)):
        cards = {
            **cards,
            **{name: card for name, card in cell.metrics.items() if name not in cards},
        }
    features = {f"{card.get('features')}{end}" for card in cards.values() for end in ("", TRUTH)}
    cards |= {
        name: {}
        for name in columns
        if name not in FIXED.names and name not in cards and name not in features
    }
    titles = [card.get("title", name) for name, card in cards.items()]
    return {
        name: {
            "title": title if titles.count(title) == 1 else name,
            "full": _full_title(card, title),
            "direction": card.get("direction", "none"),
            "unit": card.get("unit", ""),
            "version": str(card_version(card)),
        }
        for (name, card), title in zip(cards.items(), titles, strict=True)
    }


def _full_title(card: Card, title: str) -> str:
    """Return a title with the pixels that are meant: ``PSNR, hole, pasted``."""
    region = {"hole": "hole", "known": "observed pixels"}.get(str(card.get("region")), "")
    return ", ".join(filter(None, (title, region, "pasted" if card.get("pasted") else "")))


@dataclass(frozen=True)
class CellSummary:
    """The rows of a cell, reduced.

    Parameters
    ----------
    columns : sequence of str
        All columns that were read.
    line : mapping
        Its line in the leaderboard, without the numbers.
    means : DataFrame
        The mean of every number over the draws of an image, by image.
    costs : mapping of str to float
        The costs of the cell.
    features : DataFrame
        The rows of set metrics, with their image ids and draws, and the metrics that choose a draw.
    ok : int
        How many rows have a result.
    smaller : int
        How many rows were computed in a smaller batch than planned.
    origin : provenance.Origin
        The software and hardware of the rows.
    """

    columns: Sequence[str]
    line: Mapping[str, object]
    means: pd.DataFrame
    costs: Mapping[str, float]
    features: pd.DataFrame
    ok: int
    smaller: int
    origin: provenance.Origin


_UNREAD = {*BULKY, *FIXED.names} - {
    *COSTS,
    *provenance.COLUMNS,
    "cell",
    "image_id",
    "draw",
    "status",
    "padded_batch",
}
"""Columns of a row that no table shows; texts are most of the time it takes to read one."""


def summarise_cell(cell: CellRecord) -> CellSummary:
    """Read the rows of a cell and reduce them."""
    rows = RowStore(cell.folder).read(but=_UNREAD)
    ok = rows[rows["status"] == "ok"]
    scored = [name for name in rows.columns if name not in FIXED.names]
    numbers = [name for name in scored if pd.api.types.is_numeric_dtype(rows[name])]
    numbers = [name for name in numbers if name not in cell.stale]
    origin = provenance.origin_of(ok)
    choosers = {str(card.get("chosen_by")) for card in cell.metrics.values()} & {*numbers}
    vectors = [name for name in scored if name not in {*numbers, *cell.stale}]
    features = ok[["image_id", "draw", *sorted(choosers), *vectors]] if cell.sets else ok.iloc[:0]
    return CellSummary(
        columns=scored,
        line={**_line(cell, rows), "mixed": origin.mixed},
        means=ok.groupby("image_id")[numbers].mean(),
        costs=_costs(ok),
        features=features.copy(),  # a view would keep all rows in memory
        ok=len(ok),
        smaller=int((ok["padded_batch"] < cell.padded_batch).sum()),
        origin=origin,
    )


def _costs(ok: pd.DataFrame) -> dict[str, float]:
    """Return means over a cell's rows that are ok; ``peak_mib`` is the largest."""
    ok = ok.assign(passes=total_passes(ok["nfe"], ok["nge"])).reindex(columns=COSTS)
    return {name: ok[name].max() if name == "peak_mib" else ok[name].mean() for name in COSTS}


def _line(cell: CellRecord, mine: pd.DataFrame) -> dict[str, object]:
    """Return a cell's line without its numbers."""
    there = mine["draw"].between(0, cell.draws - 1)
    if (
        strange := {*mine["image_id"].unique().to_numpy()} - cell.planned
    ):  # looking up every row's id takes seconds
        there &= ~mine["image_id"].isin(strange)
    return {
        **{key: cell.identity[key] for key in IDENTITY},
        "failed": int((mine["status"] != "ok").sum()),
        "missing": len(cell.planned) * cell.draws - int(there.sum()),
        "cell": cell.name,
        "variant": str(cell.identity.get("variant") or ""),
        "preset": str(cell.identity.get("preset") or ""),
        "commit": cell.commit,
        "dirty": cell.dirty,
        "content": str(cell.identity.get("content") or ""),
        "fingerprint": str(cell.identity.get("fingerprint") or ""),
        "task_version": str(cell.identity.get("task_version") or FIRST),
        "study_version": str(cell.identity.get("study_version") or ""),
    }


def image_means(ok: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return means over the draws that have a value, by cell and image; infinite if a draw is."""
    return ok.groupby(["cell", "image_id"])[[*metrics]].mean()
