"""The leaderboard of many bundles: one page, made anew from their rows.

No number of a bundle's table is taken over: the rows of all bundles are joined to one study and
reduced together, so rank letters compare solvers of different people. How far a bundle was verified
stands in a file beside it, which ``bench verify BUNDLE out=BUNDLE.verdict.json`` writes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.core.environment import version
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.pages.board import board_page
from posterior_bench.bench.pages.board_tables import Entry, task_tables
from posterior_bench.bench.store.schema import FIXED
from posterior_bench.bench.submission import tables
from posterior_bench.bench.submission.bundle import BundleCell
from posterior_bench.bench.submission.members import ABOUT
from posterior_bench.bench.submission.metric_nodes import OurMetrics
from posterior_bench.bench.submission.verdict import LEVELS, REFUSED, TABLES
from posterior_bench.bench.submission.verify import Examined, examine

VERDICT = ".verdict.json"
"""Ends the name of the file with the verdict on a bundle."""


@dataclass
class Collected:
    """What a folder of bundles holds.

    Parameters
    ----------
    cells : dict
        Every cell with its metrics, by name; of a cell that several people submitted the first.
    entries : dict
        Where each cell comes from, for the page.
    refused : list of (str, str)
        Bundles that are not shown, and why.
    bundles : int
        How many bundles are shown.
    """

    cells: dict[str, tuple[BundleCell, OurMetrics]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    bundles: int = 0


def write_board(folder: Path) -> tuple[bytes, Collected]:
    """Return the page for a folder of bundles.

    Parameters
    ----------
    folder : Path
        Bundles, as zip files or folders, at any depth.

    Raises
    ------
    UserError
        If there is no bundle.
    """
    paths = bundle_paths(folder)
    if not paths:
        raise UserError(
            f"{folder} holds no bundle: a zip file, or a folder with {ABOUT}; `bench submit` "
            "writes one"
        )
    with tempfile.TemporaryDirectory(prefix="bench-board-") as place:
        examined = [
            (path, examine(path, Path(place) / f"study{i}", old_tasks=True))
            for i, path in enumerate(paths)
        ]
        found = collect(examined, folder)
        frame = _joined(found, Path(place) / "joined")
    page = board_page(
        tasks=task_tables(frame, found.entries) if found.cells else [],
        refused=found.refused,
        bundles=found.bundles,
        version=version(),
    )
    return page, found


def bundle_paths(folder: Path) -> list[Path]:
    """Return the bundles in a folder, sorted; links are not followed."""
    zips = [path for path in folder.rglob("*.zip") if not path.is_symlink()]
    unpacked = [path.parent for path in folder.rglob(ABOUT) if not path.is_symlink()]
    return sorted(path for path in (*zips, *unpacked) if path.exists())


def collect(examined: Sequence[tuple[Path, Examined]], folder: Path) -> Collected:
    """Return the cells of all bundles that stand, the oldest bundle first."""
    found = Collected()
    standing: list[tuple[str, Path, Examined, str]] = []
    for path, seen in examined:
        name = path.relative_to(folder).as_posix()
        level, reason = _level(path, seen)
        if level == REFUSED or seen.bundle is None:
            found.refused.append((name, reason))
        else:
            standing.append((str(seen.bundle.about["date"]), path, seen, level))
    for _, path, seen, level in sorted(standing, key=lambda one: one[:2]):
        found.bundles += 1
        for cell in seen.cells:
            entry = _entry(cell, seen, level, path.relative_to(folder).as_posix())
            if cell.name in found.cells:
                same = _values(cell) == _values(found.cells[cell.name][0])
                found.entries[cell.name].again.append((entry.by, entry.date, same))
                continue
            found.cells[cell.name] = (cell, seen.metrics[cell.name])
            found.entries[cell.name] = entry
    return found


def _level(path: Path, seen: Examined) -> tuple[str, str]:
    """Return how far a bundle was verified, and why it is refused where it is."""
    if not seen.verdict.accepted:
        return REFUSED, "; ".join(seen.verdict.reasons[:3])
    file = path.with_name(f"{path.name}{VERDICT}")
    if not file.is_file():
        return TABLES, ""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return TABLES, ""
    same = isinstance(told, dict) and told.get("bundle_sha256") == seen.verdict.sha256
    level = str(told.get("level")) if same else TABLES
    return (level if level in LEVELS else TABLES), f"{file.name} says that it is refused"


def _entry(cell: BundleCell, seen: Examined, level: str, name: str) -> Entry:
    assert seen.bundle is not None
    about, identity = seen.bundle.about, cell.identity
    priors = about["contamination"]["priors"]
    spoken = [p for p in priors if p.get("fingerprint") == identity["fingerprint"]]
    card: Mapping[str, Any] = next(
        (m for m in about["methods"] if m.get("solver") == identity["solver"]), {}
    )
    reported = [entry for entry in about["reported"] if entry.get("cell") == cell.name]
    return Entry(
        by=str(about["by"]),
        date=str(about["date"]),
        level=level,
        means=LEVELS[level],
        facts=dict(_facts(cell, card, spoken, str(about["contamination"]["seen"]), name)),
        sha256=seen.verdict.sha256,
        reported=[
            {
                "metric": str(r.get("metric")),
                "printed": str(r.get("printed")),
                "source": str(r.get("source")),
            }
            for r in reported
        ],
        again=[],
    )


def _facts(
    cell: BundleCell,
    card: Mapping[str, Any],
    priors: Sequence[Mapping[str, Any]],
    seen: str,
    name: str,
) -> Iterator[tuple[str, str]]:
    """Yield what stands behind a line, by heading."""
    provenance = cell.record["provenance"]
    yield "Method", ". ".join(filter(None, (str(card.get(k) or "") for k in ("title", "paper"))))
    yield "Settings", " ".join(cell.record["settings"]) or cell.record["alone"]
    yield "Prior trained on", "; ".join(str(prior.get("trained_on")) for prior in priors)
    yield "Test images in training data", f"{seen} (says the submitter)"
    yield "Device", _different(cell, "device")
    yield "PyTorch", _different(cell, "build")
    dirty = " (files differed from it)" if provenance.get("dirty") is True else ""
    yield "Commit", f"{provenance.get('commit')}{dirty}"
    yield "Product", cell.identity["version"]
    yield "Cell", cell.name
    yield "Bundle", name


def _different(cell: BundleCell, column: str) -> str:
    return ", ".join(sorted({str(row[column]) for row in cell.rows if row.get(column)}))


def _values(cell: BundleCell) -> dict[tuple[object, object], list[str]]:
    """Return the values of all rows as texts, to be compared."""
    names = sorted(name for name in cell.rows[0] if name not in FIXED.names)
    return {
        (row["image_id"], row["draw"]): [repr(row.get(name)) for name in names] for row in cell.rows
    }


def _joined(found: Collected, study: Path) -> pd.DataFrame:
    """Return the leaderboard of all cells together."""
    if not found.cells:
        return pd.DataFrame()
    tables.write_study(study, found.cells.values())
    return tables.board_of(study)
