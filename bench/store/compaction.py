"""Merge the many small row files of finished cells into a few large ones (``bench compact``).

A pack is written and renamed before the files whose rows it holds are removed. Whenever the process
dies in between, every row is stored once or twice, and readers count it once. The same command
again removes the second copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from posterior_bench.bench.store.copies import DifferentCopies
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.study_files import planned_cells, read_cell

PACK_BYTES = 64 * 2**20


PACK_CHUNKS = 500
"""A pack is closed at so many bytes or chunks: what is read at once, and what a bad disk can take
at once."""


@dataclass(frozen=True)
class CompactedCell:
    """The row files of one cell, before and after.

    Parameters
    ----------
    cell : str
        Name of the cell.
    before, after : int
        How many files held its rows, before and after.
    left : str, default ''
        Why the cell was left as it is; empty where its files were merged.
    """

    cell: str
    before: int
    after: int
    left: str = ""


def compact(study: Path, pack_bytes: int = PACK_BYTES) -> list[CompactedCell]:
    """Merge the shards of every finished cell of a study.

    Parameters
    ----------
    study : Path
        The study folder.
    pack_bytes : int, default PACK_BYTES
        Size at which a pack is closed.

    Returns
    -------
    list of Compacted
        One entry per cell.

    Raises
    ------
    UserError
        If the folder has no planned cells.
    """
    return [_compact_cell(path, pack_bytes) for path in planned_cells(study)]


def _compact_cell(config: Path, pack_bytes: int) -> CompactedCell:
    plan = read_cell(config)
    store, chunks = RowStore(config.parent), plan["chunks"]
    store.sweep()
    before = len(_files(store))
    try:
        rows = store.read(["status"])
    except DifferentCopies as error:
        return CompactedCell(plan["cell"], before, before, str(error))
    missing = chunks.keys() - store.done()
    if missing:
        return CompactedCell(
            plan["cell"],
            before,
            before,
            f"not finished: {len(missing)} of {len(chunks)} chunks missing",
        )
    # chunks with failed rows stay by themselves: retry=true writes them anew
    failed = set(rows.loc[rows["status"] != "ok", "image_id"])
    good = [name for name, images in chunks.items() if not failed & set(map(str, images))]
    for group in _groups(store, good, pack_bytes):
        _merge(store, group)
    return CompactedCell(plan["cell"], before, len(_files(store)))


def _groups(store: RowStore, chunks: Sequence[str], pack_bytes: int) -> Iterator[list[str]]:
    """Yield the chunks of each pack: neighbours in the plan whose columns agree."""
    group: list[str] = []
    size, layout = 0, None
    for chunk in chunks:
        table = store.table(chunk)
        if group and (table.schema != layout or size >= pack_bytes or len(group) >= PACK_CHUNKS):
            yield group
            group, size = [], 0
        group.append(chunk)
        size, layout = size + table.nbytes, table.schema
    if group:
        yield group


def _merge(store: RowStore, chunks: Sequence[str]) -> None:
    """Write one pack in place of the files that hold these chunks now.

    A file that another process has written in the meantime is left alone.
    """
    own = {path: path.stat().st_mtime_ns for path in store.shards() if path.stem in set(chunks)}
    old = [path for path in store.packs() if {*store.held(path)} & {*chunks}]
    if not own and len(old) == 1 and store.held(old[0]) == list(chunks):
        return
    if len(chunks) == 1 and own and not old:
        return
    pack = store.pack(chunks)
    for path, written in own.items():
        if path.stat().st_mtime_ns == written:
            path.unlink()
    # an old pack goes as soon as newer files hold all of it
    for path in old:
        others = {chunk for other in _files(store) if other != path for chunk in store.held(other)}
        if path != pack and {*store.held(path)} <= others:
            path.unlink()


def _files(store: RowStore) -> list[Path]:
    return [*store.shards(), *store.packs()]
