"""The data of a report: the leaderboard, rows, and cells by measurement."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.analysis.study_summary import image_means
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.pages.thumbnails import Scene
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import TRACE, VARIANTS
from posterior_bench.bench.store.shards import CorruptShard
from posterior_bench.bench.store.study_files import read_cell, study_settings
from posterior_bench.bench.store.trace import FitTrace, unpack_trace
from posterior_bench.bench.store.variants import ShownVariants, unpack_variants

PERCEPTUAL = ("lpips", "stlpips", "dists")


@dataclass(frozen=True)
class CellFile:
    """A line of the leaderboard with the ``config.yaml`` of its cell."""

    name: str
    label: str
    identity: Mapping[str, Any]
    config: JobConfig | None
    chunks: Mapping[str, Sequence[str]]
    cards: Mapping[str, Mapping[str, Any]]
    folder: Path

    @property
    def ids(self) -> list[str]:
        """Return every planned image in its order."""
        return list(
            dict.fromkeys(str(image) for images in self.chunks.values() for image in images)
        )

    def pngs(self, wanted: Iterable[str]) -> dict[str, dict[int, bytes]]:
        """Return stored pictures by image and draw.

        Only chunks that hold wanted images are read; damaged ones are skipped.
        """
        found: dict[str, dict[int, bytes]] = {image: {} for image in wanted}
        for rows in self._stored(found.keys()):
            for image, draw, png in rows[["image_id", "draw", "png"]].itertuples(index=False):
                if image in found and isinstance(png, bytes):
                    found[image][int(draw)] = png
        return found

    def traces(self, wanted: Collection[str]) -> dict[str, FitTrace]:
        """Return the traces of these images' fits, where rows hold one."""
        return {image: unpack_trace(data) for image, data in self._kept(TRACE, wanted).items()}

    def variants(self, wanted: Collection[str]) -> dict[str, ShownVariants]:
        """Return what the draws of these images were recognised as, where rows hold it."""
        kept = self._kept(VARIANTS, wanted)
        return {image: unpack_variants(data) for image, data in kept.items()}

    def _kept(self, column: str, wanted: Collection[str]) -> dict[str, bytes]:
        """Return what stands in the row of an image's first draw, where it does."""
        found: dict[str, bytes] = {}
        for rows in self._stored(wanted, column):
            for image, data in rows[["image_id", column]].itertuples(index=False):
                if image in wanted and isinstance(data, bytes):
                    found[image] = data
        return {image: found[image] for image in wanted if image in found}

    def _stored(self, wanted: Collection[str], column: str | None = None) -> Iterator[pd.DataFrame]:
        """Yield the rows of every chunk that has a wanted image, and the column if one is given."""
        store, wanted = RowStore(self.folder), frozenset(wanted)
        for chunk, images in self.chunks.items():
            if not wanted.isdisjoint(images):
                with suppress(FileNotFoundError, CorruptShard):
                    if column is None or column in store.columns_of(chunk):
                        yield store.stored(chunk)[1]


@dataclass(frozen=True)
class Group:
    """Cells that saw the same measurements."""

    name: str
    cells: Sequence[CellFile]
    lines: pd.DataFrame

    @property
    def scene(self) -> Scene:
        """Return the measurement, to be read again from its sources."""
        return Scene(self.cells[0].config or JobConfig.of({}))

    @property
    def ids(self) -> list[str]:
        """Return every planned image in its order."""
        return self.cells[0].ids


@dataclass(frozen=True)
class ReportData:
    """The data of a report.

    Parameters
    ----------
    folder : Path
        The study folder.
    board : DataFrame
        The leaderboard.
    rows : DataFrame
        The rows of images, without pictures and features.
    groups : sequence of Group
        The cells by measurement.
    metrics : sequence of str
        Metrics that have a direction and a value of every image, the headlines first.
    """

    folder: Path
    board: pd.DataFrame
    rows: pd.DataFrame
    groups: Sequence[Group]
    metrics: Sequence[str]
    """Metrics that have a direction and a value of every image, the headlines first."""

    @property
    def cells(self) -> list[CellFile]:
        """Return the cells of all measurements."""
        return [cell for group in self.groups for cell in group.cells]

    @classmethod
    def read(cls, folder: Path, board: pd.DataFrame) -> ReportData:
        """Read the data of a study."""
        recorded = read_cells(folder)
        sets = {name for cell in recorded for name in cell.sets}
        cards = board.attrs["metrics"]
        valued = [m for m in cards if m not in sets and board[f"{m}_n"].sum() > 0]
        rows = read_study(folder, ["status", "message", "device", "truth", *valued])
        for cell in recorded:
            rows.loc[rows["cell"] == cell.name, [m for m in valued if m in cell.stale]] = np.nan
        directed = [m for m in valued if cards[m]["direction"] != "none"]
        heads = [m for m in tables.headlines(cards) if m in directed]
        groups = [
            Group(
                " · ".join(map(str, (*names[:3], f"{names[3]} images", f"seed {names[4]}"))),
                cells,
                lines,
            )
            for names, lines in board.groupby(tables.GROUP, sort=False)
            if (cells := [_cell_file(folder, line) for line in lines.to_dict("records")])
        ]
        return cls(folder, board, rows, groups, [*heads, *(m for m in directed if m not in heads)])

    def means(self) -> pd.DataFrame:
        """Return the values of images, draws averaged, by cell and image."""
        return image_means(self.rows[self.rows["status"] == "ok"], self.metrics)

    def main_metric(self) -> str | None:
        """Return the metric of the study's figure, a perceptual one, or the first; None without."""
        figure = study_settings(self.folder).get("study", {}).get("figure") or {}
        wanted = [m for m in self.metrics if m == figure.get("y")]
        perceptual = [m for m in self.metrics if m.partition("_")[0] in PERCEPTUAL]
        return next(iter([*wanted, *perceptual, *self.metrics]), None)


def _cell_file(folder: Path, line: Mapping[Hashable, Any]) -> CellFile:
    cell = folder / "cells" / str(line["cell"])
    recorded = read_cell(cell / "config.yaml")
    return CellFile(
        name=str(line["cell"]),
        label=str(line["solver"]),
        identity=recorded["identity"],
        config=JobConfig.of(recorded["config"]) if recorded.get("config") else None,
        chunks=recorded["chunks"],
        cards=recorded.get("metrics") or {},
        folder=cell,
    )
