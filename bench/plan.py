"""The plan: which chunks a cell has, and which of them are still missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cell import Cell, digest
from bench.code import code_of
from bench.errors import UserError
from bench.record import plan_text, read_cell
from bench.store import RowStore, write_atomic


@dataclass(frozen=True)
class Chunk:
    """A fixed slice of a cell's rows: some images, each with all its draws. One chunk is one shard."""

    name: str
    images: Sequence[str]


@dataclass(frozen=True)
class CellPlan:
    """A cell in its study folder.

    ``padded`` images fill every network batch of ``padded * draws`` rows, the last chunk's too, so that a row never
    depends on which chunk it fell into; ``batch`` is the size it was first planned with.
    """

    cell: Cell
    folder: Path
    chunks: Sequence[Chunk]
    padded: int
    batch: int

    @property
    def store(self) -> RowStore:
        return RowStore(self.folder)

    def missing(self, retry: bool = False) -> list[Chunk]:
        """Chunks without a valid shard; with ``retry`` also those holding rows that are not ok, or of other code.

        Rows of other code are those whose hash of the solver's source (:func:`bench.code.code_of`) is not today's; rows
        without one, of versions before 0.2.0, count as other code too. Raises UserError without ``retry`` where there
        are such rows and others are missing: they would stand in one line of the tables.
        """
        self.store.sweep()
        done = self.store.done()
        if not done:
            return list(self.chunks)
        rows = self.store.read(["image_id", "status", "code"])
        other = self._of_other_code(rows)
        if retry:
            bad = set(rows.loc[(rows["status"] != "ok") | other, "image_id"])
            done = {c.name for c in self.chunks if c.name in done and not bad & set(c.images)}
        missing = [chunk for chunk in self.chunks if chunk.name not in done]
        if missing and other.any() and not retry:
            raise UserError(
                f"{int(other.sum())} of {len(rows)} rows in {self.folder} were computed with another source of this "
                "solver; retry=true computes them again, out=DIR starts another study"
            )
        return missing

    def outdated(self) -> int:
        """How many finished rows were computed with another source of the solver than today's."""
        return int(self._of_other_code(self.store.read(["status", "code"])).sum())

    def _of_other_code(self, rows: pd.DataFrame) -> pd.Series:
        # rows of executors, which had no worker to ask, have neither results nor code
        known = rows["code"].notna() | (rows["status"] == "ok")
        return known & (rows["code"] != code_of(self.cell.config["solver"]))


def slices(images: Sequence[str], draws: int, batch: int) -> tuple[list[Chunk], int]:
    """Images cut into chunks of ``batch // draws`` (at least one), and that number."""
    padded = max(1, batch // draws)
    parts = [list(images[i : i + padded]) for i in range(0, len(images), padded)]
    return [Chunk(f"{i:05d}-{digest([part, draws])}", part) for i, part in enumerate(parts)], padded


def plan_cell(
    cell: Cell,
    study: Path,
    ids: Sequence[str],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    write: bool = True,
) -> CellPlan:
    """The plan of a cell, recorded in its folder the first time (unless ``write`` is False).

    A cell keeps the chunks it was first planned with: a later ``batch=`` cannot cut its rows anew, so duplicates
    cannot exist. Two processes that plan the same cell write the same file.
    """
    if cell.images > len(ids):
        raise UserError(
            f"data.images={cell.images}, but there are only {len(ids)} images; set data.images={len(ids)} or less"
        )
    folder = study.absolute() / "cells" / cell.name  # workers may run in another folder
    path = folder / "config.yaml"
    recorded = read_cell(path) if path.exists() else None
    if recorded is None:
        chunks, padded = slices(list(ids)[: cell.images], cell.draws, int(cell.config["batch"]))
        recorded = {
            "cell": cell.name,
            "identity": dict(cell.identity),
            "padded": padded,
            "chunks": {chunk.name: list(chunk.images) for chunk in chunks},
            "metrics": {},
            "provenance": dict(provenance),
            "config": dict(cell.config),
        }
    if write and (not path.exists() or metrics.keys() - recorded["metrics"].keys()):
        recorded["metrics"] = {**recorded["metrics"], **metrics}
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        write_atomic(path, plan_text(recorded).encode())
    chunks = [Chunk(name, images) for name, images in recorded["chunks"].items()]
    return CellPlan(cell, folder, chunks, int(recorded["padded"]), int(recorded["config"]["batch"]))


def writable(folder: Path) -> None:
    """Create the study folder, or say in one line why that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the study folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"the study folder {folder} is not writable; choose another with out=DIR")
