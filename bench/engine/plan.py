"""The plan: which chunks a cell has, and which of them are still missing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.cell import Cell, digest
from posterior_bench.bench.config.image_folders import demand_count
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.batches import rows_at_once
from posterior_bench.bench.engine.enumerated import are_enumerated
from posterior_bench.bench.engine.metric_networks import demand_same_weights
from posterior_bench.bench.engine.source_code import code_of
from posterior_bench.bench.store.atomic import write_atomic, write_first
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import plan_text, read_cell

_PART = re.compile(r"-d(\d+)-(\d+)$")
"""Ends the name of a chunk that holds some draws of its images: the first and the last of them."""

_LOOKED_AT = 3
"""Stored chunks that are read at most for their threads."""


@dataclass(frozen=True)
class Chunk:
    """A fixed slice of a cell's rows: some images, with all their draws or a range of them.

    One chunk is one shard. ``00000-1f3a...`` holds all draws, ``00000-1f3a...-d13-25`` the draws
    from 13 to 25.
    """

    name: str
    images: Sequence[str]

    def draws(self, every: int) -> range:
        """Return the draws of each image in this chunk, in a cell with ``every`` draws."""
        part = _PART.search(self.name)
        return range(int(part[1]), int(part[2]) + 1) if part else range(every)

    def rows(self, every: int) -> int:
        """How many rows this chunk has, in a cell with so many draws."""
        return len(self.images) * len(self.draws(every))

    def keys(self, every: int) -> list[tuple[str, int]]:
        """Return image and draw of every row, in a cell with ``every`` draws."""
        return [(image, draw) for image in self.images for draw in self.draws(every)]


def count_rows(chunks: Mapping[str, Sequence[str]], draws: int) -> int:
    """How many rows the recorded chunks of a cell have together."""
    return sum(Chunk(name, images).rows(draws) for name, images in chunks.items())


@dataclass(frozen=True)
class CellPlan:
    """A cell in its study folder.

    ``padded`` images fill every network batch of ``padded * draws`` rows, the last chunk's too, so
    that a row never depends on which chunk it fell into; ``batch`` is the size it was first planned
    with.
    """

    cell: Cell
    folder: Path
    chunks: Sequence[Chunk]
    padded: int
    batch: int

    @property
    def store(self) -> RowStore:
        """The stored rows of the cell."""
        return RowStore(self.folder)

    @property
    def images(self) -> list[str]:
        """Every image of the plan once, in its order."""
        return list(dict.fromkeys(image for chunk in self.chunks for image in chunk.images))

    def rows(self, chunks: Iterable[Chunk] | None = None) -> int:
        """How many rows some chunks have together; without ``chunks``, all of them."""
        return sum(
            chunk.rows(self.cell.draws) for chunk in (self.chunks if chunks is None else chunks)
        )

    def missing(self, retry: bool = False) -> list[Chunk]:
        """Return the chunks without a valid shard.

        Rows of other code are rows whose hash of the solver's source
        (:func:`bench.engine.source_code.code_of`) is not today's; rows without a hash, of versions
        before 0.2.0, count as other code too.

        Parameters
        ----------
        retry : bool, default False
            Return also chunks that hold rows which are not ok, or of other code.

        Raises
        ------
        UserError
            Without ``retry``, if some rows are of other code and others are missing: they would
            stand in one line of the tables.
        """
        self.store.sweep()
        done = self.store.done()
        if not done:
            return list(self.chunks)
        rows = self.store.read(["image_id", "status", "code"])
        other = self._of_other_code(rows)
        if retry:
            bad = rows[(rows["status"] != "ok") | other]
            again = {*zip(bad["image_id"], bad["draw"], strict=True)}
            done = {
                c.name
                for c in self.chunks
                if c.name in done and not again & {*c.keys(self.cell.draws)}
            }
        missing = [chunk for chunk in self.chunks if chunk.name not in done]
        if missing and other.any() and not retry:
            raise UserError(
                f"{int(other.sum())} of {len(rows)} rows in {self.folder} were computed with "
                f"another source of this "
                "solver; retry=true computes them again, out=DIR starts another study"
            )
        return missing

    def outdated(self) -> int:
        """How many finished rows were computed with another source of the solver than today's."""
        return int(self._of_other_code(self.store.read(["status", "code"])).sum())

    def threads(self, missing: Sequence[Chunk]) -> int | None:
        """Return the CPU threads that a stored chunk was computed with; None if none says so.

        Rows of a cell with different numbers of threads are not ranked, so a cell goes on with the
        number it began with.
        """
        names = {chunk.name for chunk in missing}
        kept = (chunk.name for chunk in self.chunks if chunk.name not in names)
        for name in islice(kept, _LOOKED_AT):
            with contextlib.suppress(OSError, ValueError, KeyError):  # a shard is damaged, or gone
                known = self.store.table(name).column("threads").drop_null().to_pylist()
                if known:
                    return int(known[0])
        return None

    def _of_other_code(self, rows: pd.DataFrame) -> pd.Series:
        # rows of executors, which had no worker to ask, have neither results nor code
        known = rows["code"].notna() | (rows["status"] == "ok")
        return known & (rows["code"] != code_of(self.cell.config.solver))


def slices(
    images: Sequence[str], draws: int, batch: int, pieces: int = 1
) -> tuple[list[Chunk], int]:
    """Images cut into chunks of ``batch // draws`` (at least one), and that number.

    The draws of an image are cut into so many ``pieces``, each a chunk of its own
    (:mod:`bench.engine.chunking`).
    """
    padded = rows_at_once(draws, batch).images
    parts = [list(images[i : i + padded]) for i in range(0, len(images), padded)]
    ranges = cut(draws, batch, pieces)
    ends = [f"-d{part.start}-{part.stop - 1}" for part in ranges] if len(ranges) > 1 else [""]
    names = [f"{i:05d}-{digest([part, draws])}" for i, part in enumerate(parts)]
    return [
        Chunk(name + end, part) for name, part in zip(names, parts, strict=True) for end in ends
    ], padded


def cut(draws: int, batch: int, pieces: int) -> list[range]:
    """Cut the draws of an image into so many pieces of whole network batches.

    If there are more pieces than batches, the draws are cut evenly. Ten draws in batches of four
    are 4 + 4 + 2, so two pieces are 8 + 2; four pieces are 3 + 2 + 3 + 2.
    """
    unit = batch if pieces <= -(-draws // batch) else 1
    units = -(-draws // unit)
    edges = [min(draws, unit * -(-units * i // pieces)) for i in range(pieces + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def cell_file(cell: Cell, study: Path) -> Path:
    """Return where the plan of a cell is recorded."""
    # workers may run in another folder
    return study.absolute() / "cells" / cell.name / "config.yaml"


def plan_cell(
    cell: Cell,
    study: Path,
    ids: Sequence[str],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    write: bool = True,
    pieces: int = 1,
    batch_chosen: str = "",
    grown: bool = False,
) -> CellPlan:
    """Return the plan of a cell, and record it in its folder the first time.

    A cell keeps the chunks it was first planned with: a later ``batch=``, or another number of
    workers, cannot cut its rows anew, so duplicates cannot exist. Two processes that plan the same
    cell write the same file.

    Parameters
    ----------
    cell : Cell
        The cell.
    study : Path
        The study folder.
    ids : sequence of str
        The ids of all images in the set.
    metrics : Mapping
        The cards of the metrics by column.
    provenance : Mapping
        Version and commit of the code.
    write : bool, default True
        Record the plan.
    pieces : int, default 1
        Into how many chunks the draws of an image are cut (:mod:`bench.engine.chunking`).
    batch_chosen : str, default ''
        How the batch was chosen, where it was measured. Two processes may then plan different
        batches; the plan of the first one holds.
    grown : bool, default False
        Whether a new plan notes that a larger cell may replace it (:mod:`bench.engine.growing`).

    Raises
    ------
    UserError
        If there are too few images, or a metric has other weights than when the cell was planned.
    """
    demand_count(cell.images, len(ids))
    path = cell_file(cell, study)
    folder = path.parent
    recorded = read_cell(path) if path.exists() else None
    if recorded is None:
        config = cell.config
        # an image that cannot be enumerated fails alone
        alone = are_enumerated(target(config.solver), config.data)
        batch = min(config.batch, cell.draws) if alone else config.batch
        chunks, padded = slices(list(ids)[: cell.images], cell.draws, batch, pieces)
        recorded = {
            "cell": cell.name,
            "identity": dict(cell.identity),
            "padded": padded,
            "chunks": {chunk.name: list(chunk.images) for chunk in chunks},
            "metrics": {},
            "provenance": dict(provenance),
            "config": cell.config.record(),
            **({"batch_chosen": batch_chosen} if batch_chosen else {}),
            **({"grown": True} if grown else {}),
        }
        if batch_chosen and write:
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            recorded["metrics"] = dict(metrics)
            write_first(path, plan_text(recorded).encode())
            recorded = read_cell(path)
    nodes = recorded["config"]["metrics"]
    demand_same_weights(cell.name, nodes, cell.config.metrics)
    if write and (not path.exists() or metrics.keys() - recorded["metrics"].keys()):
        recorded["metrics"] = {**recorded["metrics"], **metrics}
        recorded["config"]["metrics"] = {**cell.config.record()["metrics"], **nodes}
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        write_atomic(path, plan_text(recorded).encode())
    chunks = [Chunk(name, images) for name, images in recorded["chunks"].items()]
    return CellPlan(cell, folder, chunks, int(recorded["padded"]), int(recorded["config"]["batch"]))


def writable(folder: Path) -> None:
    """Create the study folder; raise UserError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the study folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"the study folder {folder} is not writable; choose another with out=DIR")
