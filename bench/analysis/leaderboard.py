"""The leaderboard: every cell of a study in one line.

It is built from the shards and the cells' plans alone. The mean of a metric is taken over images,
draws of an image averaged before. A set metric is one number for all images, reduced from the
features in their rows. Only rows whose status is ``ok`` count: a failed row is counted as failed
and is never a zero.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from posterior_bench.bench.analysis import paper_table, papers, provenance, tables
from posterior_bench.bench.analysis.cell_records import Card
from posterior_bench.bench.analysis.columns import EXTRA, csv_columns, long, to_csv
from posterior_bench.bench.analysis.notes import (
    auto_notes,
    batch_notes,
    conditioning_notes,
    infinite_notes,
    main_notes,
    preset_notes,
    rank_notes,
    small_set_notes,
)
from posterior_bench.bench.analysis.ranked_groups import rank_letters
from posterior_bench.bench.analysis.scores import image_scores, set_scores
from posterior_bench.bench.analysis.study_summary import StudySummary, summarise_study
from posterior_bench.bench.store.atomic import write_atomic


def build(study: Path | str) -> pd.DataFrame:
    """Return one line per cell, best first within each group of comparable cells.

    The groups are those of :data:`bench.analysis.tables.GROUP`.

    Returns
    -------
    DataFrame
        ``solver data mask operator prior seed images draws failed``, then per metric ``m m_lo
        m_hi``, then costs per draw (means over ok rows; ``peak_mib`` is the largest), then
        :data:`EXTRA`, then per metric ``m_n`` and ``m_inf``, the number of images in the mean and
        of those whose value is infinite. ``content`` and ``fingerprint`` are hashes of the images
        in use and of the prior; ``mixed`` says in what the rows of a cell differ that they should
        agree in (:mod:`bench.analysis.provenance`). ``failed`` counts stored rows that are not ok,
        ``missing`` planned rows that are not stored. ``m_rank`` holds the letters of
        :func:`bench.analysis.letters.ranks`, where cells are compared; ``m_paper`` and
        ``m_paper_flag`` hold the printed number, where the study declares a table of a paper.
        ``frame.attrs`` holds ``metrics`` (id to title, direction, unit), ``notes``, which must
        stand below a table, and ``versions`` of this product that computed rows.

    Raises
    ------
    ValueError
        If the folder has no cells.
    """
    found = summarise_study(study)
    cells, parts, metrics, images = found.cells, found.parts, found.metrics, found.images
    frame = found.lines.assign(
        solver=found.lines["label"], data=provenance.data_labels(found.lines)
    )
    in_sets = {name for cell in cells for name in cell.sets}
    single = [name for name in metrics if name not in in_sets]
    features = {cell.name: part.features for cell, part in zip(cells, parts, strict=True)}
    scores = [
        image_scores(images, cells, single),
        set_scores(features, cells, [m for m in metrics if m in in_sets]),
    ]
    frame = pd.concat([frame, *scores, pd.DataFrame([part.costs for part in parts])], axis=1)
    frame = _sorted(frame, metrics)[
        [*csv_columns(metrics), *EXTRA, *(f"{m}{end}" for m in metrics for end in ("_n", "_inf"))]
    ]
    named = rank_letters(frame, images, {name: metrics[name] for name in single})
    printed = papers.declared_table(study)
    beside = (
        papers.printed_columns(frame, metrics, printed)
        if printed
        else pd.DataFrame(index=frame.index)
    )
    frame = pd.concat([frame, named, beside], axis=1)
    notes = _notes(found, frame, named)
    if printed:
        notes.append(papers.paper_note(frame, metrics, printed))
    versions = {v for part in parts for v in part.origin.found.get("version", ()) if v}
    frame.attrs = {"metrics": Cards(metrics), "notes": notes, "versions": sorted(versions)}
    return frame


def _notes(found: StudySummary, frame: pd.DataFrame, named: pd.DataFrame) -> list[str]:
    """Return what must stand below a table of these lines."""
    cells, parts, metrics = found.cells, found.parts, found.metrics
    in_sets = {name for cell in cells for name in cell.sets}
    notes = main_notes(frame, sum(len(c.planned) * c.draws for c in cells), metrics)
    if in_sets:
        reduced = ", ".join(m for m in metrics if m in in_sets)
        notes.insert(1, f"One value from all images, its interval over images too: {reduced}.")
    notes += infinite_notes(frame, metrics)
    notes += provenance.notes(frame, [part.origin for part in parts], cells)
    notes += preset_notes(cells)
    notes += conditioning_notes(cells)
    notes += auto_notes(cells)
    notes += batch_notes(parts)
    notes += small_set_notes(frame, cells)
    return notes + rank_notes(frame, named)


class Cards(dict[str, dict[str, str]]):
    """Metrics by id, shared by all parts of a frame.

    pandas copies ``attrs`` deeply at every access; this object is not copied.
    """

    def __deepcopy__(self, _memo: object) -> Cards:
        return self


def write(study: Path | str) -> pd.DataFrame:
    """Build and write ``leaderboard.csv .parquet .md .tex`` and ``leaderboard_long.csv``.

    Each file is replaced as a whole.
    """
    frame = build(study)
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), parquet)
    metrics = frame.attrs["metrics"]
    counted = [f"{m}_inf" for m in metrics if frame[f"{m}_inf"].any()]
    files = {
        "leaderboard.csv": to_csv(
            frame[[*csv_columns(metrics), *tables.rank_columns(frame), *counted]]
        ),
        "leaderboard_long.csv": to_csv(long(frame)),
        "leaderboard.md": tables.leaderboard_markdown(frame).encode(),
        "leaderboard.tex": tables.leaderboard_latex(frame).encode(),
        "leaderboard.parquet": parquet.getvalue(),
    }
    if printed := papers.declared_table(study):
        files["paper_table.md"] = paper_table.paper_markdown(frame, study, printed).encode()
    for name, data in files.items():
        write_atomic(Path(study) / name, data)
    return frame


def table(frame: pd.DataFrame, width: int = 160, first: Iterable[str] = ()) -> Table:
    """Return the leaderboard for a terminal, the metrics ``first`` in front."""
    return tables.terminal_table(frame, width, first=first)


def _sorted(frame: pd.DataFrame, metrics: Mapping[str, Card]) -> pd.DataFrame:
    """Sort by group, then by its first headline that has a direction, best first, then by name."""
    frame = frame.sort_values(["solver", "prior", "cell"], kind="stable")
    parts = []
    for _, lines in frame.groupby(tables.GROUP):
        first = tables.leading(metrics, lines)
        if first:
            down = metrics[first]["direction"] == "down"
            lines = lines.sort_values(first, ascending=down, kind="stable", na_position="last")
        parts.append(lines)
    return pd.concat(parts, ignore_index=True)
