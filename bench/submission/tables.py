"""The table of a bundle, reduced anew from its rows.

The rows are written to a study folder of our own, whose configurations hold our metrics and cards,
and reduced by the code that reduces every study.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import leaderboard, tables
from posterior_bench.bench.analysis.columns import EXTRA, csv_columns, to_csv
from posterior_bench.bench.engine.plan import Chunk
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import Row
from posterior_bench.bench.store.study_files import plan_text
from posterior_bench.bench.submission.bundle import BundleCell
from posterior_bench.bench.submission.metric_nodes import OurMetrics

_CLOSE = 1e-6
"""Relative difference of numbers that another library may round in another way."""


def write_study(study: Path, cells: Iterable[tuple[BundleCell, OurMetrics]]) -> None:
    """Write cells as a study folder without pictures.

    Parameters
    ----------
    study : Path
        An empty folder.
    cells : iterable of (BundleCell, OurMetrics)
        Cells whose plan and rows were checked.
    """
    for cell, ours in cells:
        folder = study / "cells" / cell.name
        folder.mkdir(parents=True)
        write_atomic(folder / "config.yaml", plan_text(_record(cell, ours)).encode())
        store, rows = RowStore(folder), {_key(row): row for row in cell.rows}
        for name, images in cell.record["chunks"].items():
            mine = [rows[key] for key in Chunk(name, images).keys(cell.draws)]
            store.write(name, mine)


def _key(row: Row) -> tuple[str, int]:
    return str(row["image_id"]), int(str(row["draw"]))


def _record(cell: BundleCell, ours: OurMetrics) -> dict[str, Any]:
    """Return a plan of our own making: of the bundle's it has names and numbers, and no nodes."""
    record, told = cell.record, cell.record["config"]
    operator = told.get("operator") if isinstance(told.get("operator"), dict) else {}
    sigma = operator.get("sigma")
    provenance = {key: record["provenance"].get(key) for key in ("version", "commit", "dirty")}
    return {
        "cell": cell.name,
        "identity": dict(cell.identity),
        "padded": record["padded"],
        "metrics": ours.cards,
        "provenance": provenance,
        "config": {
            "metrics": dict(ours.nodes),
            "operator": {"sigma": sigma if isinstance(sigma, int | float) else 0.0},
            "budget": told.get("budget"),
            "batch": record["batch"],
        },
        "chunks": record["chunks"],
    }


def table_text(frame: pd.DataFrame) -> bytes:
    """Return the table of a bundle as CSV: a line per cell, all metrics, costs and letters."""
    metrics = frame.attrs["metrics"]
    extra = [name for name in EXTRA if name not in ("dirty",)]
    return to_csv(frame[[*csv_columns(metrics), *tables.rank_columns(frame), *extra]])


def board_of(study: Path) -> pd.DataFrame:
    """Return the leaderboard of a study folder."""
    return leaderboard.build(study)


def table_problems(told: bytes, here: bytes) -> list[str]:
    """Compare the table that a bundle tells with the one that its rows make here.

    Returns
    -------
    list of str
        The first value of every column that differs.
    """
    theirs, ours = _lines(told), _lines(here)
    if not theirs or not ours or {*theirs[0]} != {*ours[0]} or len(theirs) != len(ours):
        return ["the table has other columns or lines than its rows make"]
    known = {line["cell"]: line for line in theirs}
    wrong: dict[str, str] = {}
    for line in ours:
        other: Mapping[str, str] = known.get(line["cell"], {})
        for column, value in line.items():
            if not _same(value, other.get(column, "")):
                wrong.setdefault(
                    column,
                    f"the table says {column} {other.get(column, 'nothing')} of "
                    f"{line['solver']}, and its rows make {value}",
                )
    return list(wrong.values())


def _lines(data: bytes) -> Sequence[Mapping[str, str]]:
    try:
        return [*csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))]
    except (csv.Error, UnicodeDecodeError):
        return []


def _same(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return math.isclose(float(a), float(b), rel_tol=_CLOSE, abs_tol=1e-12)
    except (TypeError, ValueError):
        return False
