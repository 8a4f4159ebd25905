"""The row store: one Parquet shard per chunk, so that a finished chunk is a file that is there.

A shard is built in memory, written to a dot-file of the same folder, synced and renamed. A reader
therefore sees a whole shard or none, on a local disk and on a shared folder without locks, and a
chunk written twice replaces itself. Every page of a shard has a checksum and its footer a seal;
what is read is checked against them. Shards of finished chunks can be merged into a pack, which
says which chunks it holds, and how many rows of each.

A file belongs to one cell, whose name its footer holds: in the folder of another cell every reader
refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from posterior_bench.bench.store.atomic import is_stale, write_atomic
from posterior_bench.bench.store.copies import (
    DifferentCopies,
    files_with_copies,
    hashable,
    increasing,
    key_columns,
)
from posterior_bench.bench.store.schema import (
    BULKY,
    KEY,
    TIMINGS,
    Row,
    Wanted,
    column_order,
    column_type,
    complete,
    empty_table,
    every_column,
    rows_table,
    wanted_columns,
)
from posterior_bench.bench.store.shards import (
    PACK,
    CorruptShard,
    chunks_in,
    column_names,
    decode,
    encode,
    encode_pack,
    set_aside,
)

T = TypeVar("T")


_CHUNK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class RowStore:
    """The rows of one cell: ``<cell folder>/rows/<chunk>.parquet``. Many processes may write at
    once.

    The folder has the name of the cell. Every method that reads raises WrongCell where a file is of
    another one.
    """

    def __init__(self, cell_folder: Path | str):
        self.cell = Path(cell_folder).absolute().name
        self.folder = Path(cell_folder) / "rows"

    def write(self, chunk: str, rows: Sequence[Row]) -> None:
        """Store the rows of a chunk, all or nothing; a chunk written again replaces itself.

        A row has the keys of :data:`FIXED` (absent ones become null; ``cell``, ``image_id``,
        ``draw`` and ``status`` must be there) and one number per metric id: None = not computed;
        NaN and infinity are kept as they are. A list of numbers is stored as features; a metric has
        the one or the other. Bytes are kept as they are. Raises ValueError for a bad chunk name, no
        rows, a row without key or of another cell and two rows with the same key.
        """
        path = self._path(chunk)
        if chunk.startswith(PACK):
            raise ValueError(
                f"chunk name '{chunk}' is that of a pack: begin it with something else than "
                f"'{PACK}'"
            )
        strange = {str(row.get("cell")) for row in rows} - {self.cell, "None"}
        if strange:
            raise ValueError(
                f"chunk '{chunk}' has rows of the cell {min(strange)}, but this folder is of "
                f"{self.cell}"
            )
        data = encode(chunk, rows_table(chunk, rows), self.cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    def extend(self, chunk: str, rows: Sequence[Row]) -> None:
        """Add columns to a stored chunk, all or nothing; what is stored stays bit for bit.

        ``rows``: the new columns of every stored row, in the stored order. Raises ValueError for a
        column that is there already and another number of rows, CorruptShard for a damaged shard.
        """
        table = self.table(chunk)
        names = sorted({name for row in rows for name in row})
        known = [name for name in names if name in table.column_names]
        if known or len(rows) != table.num_rows:
            wrong = (
                f"has {', '.join(known)} already"
                if known
                else f"has {table.num_rows} rows, not {len(rows)}"
            )
            raise ValueError(f"chunk '{chunk}' {wrong}; stored values are never replaced")
        for name in names:
            values = [row.get(name) for row in rows]
            kind = column_type(values)
            table = table.append_column(pa.field(name, kind), pa.array(values, kind))
        write_atomic(
            self._path(chunk),
            encode(chunk, table.select(column_order(table.column_names)), self.cell),
        )

    def stored(self, chunk: str) -> tuple[list[str], pd.DataFrame]:
        """All columns of a chunk, and its rows as they are stored, images included. CorruptShard
        for a damaged one.
        """
        table = self.table(chunk)
        return table.column_names, table.to_pandas()

    def columns_of(self, chunk: str) -> set[str]:
        """The names of a stored chunk's columns. FileNotFoundError where it is not there."""
        path = self._path(chunk)
        files = (
            [path]
            if path.exists()
            else [pack for pack in self.packs() if chunk in chunks_in(pack, self.cell)]
        )
        if not files:
            raise FileNotFoundError(f"chunk '{chunk}' is not stored in {self.folder}")
        return {*column_names(files[0])}

    def columns(self) -> list[str]:
        """The names of the columns of one stored chunk, from a footer alone; none where nothing is
        stored.
        """
        return next((column_names(path) for path in self._shards() if self._sound(path)), [])

    def has(self, chunk: str) -> bool:
        """Whether the chunk is there with a sound footer; a corrupt shard is reported and set
        aside.
        """
        path = self._path(chunk)
        return (path.exists() and bool(self._sound(path))) or any(
            chunk in self._sound(p) for p in self.packs()
        )

    def done(self) -> set[str]:
        """Names of the finished chunks. Reads footers only; corrupt shards are reported and set
        aside.
        """
        return _steady(lambda: {*chain.from_iterable(_each(self._sound, self._shards()))})

    def shards(self) -> list[Path]:
        """The files that hold one chunk each, sorted; packs apart."""
        return [path for path in self._shards() if not path.name.startswith(PACK)]

    def packs(self) -> list[Path]:
        """The files that hold several chunks each, sorted."""
        return [path for path in self._shards() if path.name.startswith(PACK)]

    def held(self, pack: Path) -> list[str]:
        """The chunks in a pack, in its order. CorruptShard for a damaged one."""
        return chunks_in(pack, self.cell)

    def _sound(self, path: Path) -> list[str]:
        """The chunks in a file; a corrupt one is reported and set aside, and holds none."""
        try:
            return chunks_in(path, self.cell)
        except CorruptShard as error:
            set_aside(path, error)
            return []

    def pack(self, chunks: Sequence[str]) -> Path:
        """Write one file that holds these stored chunks, whose columns agree; returns it, read once
        more and sound.

        Nothing is removed: until the chunks' own files are, readers see every row twice and count
        it once.
        """
        name = PACK + blake2b("\n".join(chunks).encode(), digest_size=8).hexdigest()
        tables = {chunk: self.table(chunk) for chunk in chunks}
        write_atomic(path := self._path(name), encode_pack(name, tables, self.cell))
        decode(path, every_column, self.cell)
        return path

    def read(
        self, columns: Sequence[str] | None = None, but: Collection[str] = BULKY
    ) -> pd.DataFrame:
        """All rows, sorted by image id and draw: the order does not depend on how rows were cut
        into chunks.

        ``columns``: None = all but those in ``but``; the key comes always. A metric that some
        shards lack is NaN there. Every page read is checked against its checksum; a corrupt shard
        is reported and set aside, so its rows are missing and the next run does them again. Rows
        stored twice come once. Raises DifferentCopies if two copies differ in anything but timings,
        ValueError for a column that no shard has.
        """
        return complete(self._rows(columns, but), columns, self.folder)

    def sweep(self) -> list[Path]:
        """Remove what killed writers left: dot-files of dead processes of this host, and any older
        than an hour.
        """
        stale = [path for path in self.folder.glob(".*.tmp") if is_stale(path)]
        for path in stale:
            path.unlink(missing_ok=True)
        return stale

    def _path(self, chunk: str) -> Path:
        if not _CHUNK.fullmatch(chunk):
            raise ValueError(
                f"chunk name '{chunk}' cannot be a file name: use letters, digits, '_', '-' and '.'"
            )
        return self.folder / f"{chunk}.parquet"

    def _shards(self) -> list[Path]:
        """Packs last: of two copies of a row, that in the chunk's own file is read, which may have
        gained columns.
        """
        before, found = self._listing(), self._listing()
        # one listing may miss a pack that appears and the files that vanish for it; a second one
        # then lacks some
        while not before <= found:
            before, found = found, self._listing()
        return sorted(found, key=lambda path: (path.name.startswith(PACK), path.name))

    def _listing(self) -> set[Path]:
        return {path for path in self.folder.glob("*.parquet") if not path.name.startswith(".")}

    def table(self, chunk: str) -> pa.Table:
        """All columns of a stored chunk, from its own file or from a pack. FileNotFoundError where
        it is in none.
        """
        return _steady(lambda: self._find(chunk))

    def _find(self, chunk: str) -> pa.Table:
        path = self._path(chunk)
        if path.exists():
            return decode(path, every_column, self.cell)
        for pack in self.packs():
            if chunk in chunks_in(pack, self.cell):
                return decode(pack, every_column, self.cell, chunk)
        raise FileNotFoundError(f"chunk '{chunk}' is not stored in {self.folder}")

    def _rows(self, columns: Sequence[str] | None, but: Collection[str] = BULKY) -> pd.DataFrame:
        """Those of ``columns`` (and of the key) that some shard has, each row once, sorted."""
        wanted = wanted_columns(columns, but)
        shards = _steady(lambda: self._load(wanted))
        table = pa.concat_tables([empty_table(wanted), *shards.values()], promote_options="default")
        frame, keys = table.to_pandas(), key_columns(table)
        if increasing(keys).all():  # as they do where images are planned in the order of their ids
            return frame
        order = np.lexsort(keys[::-1])
        first = increasing([key[order] for key in keys])
        if not first.all():
            self._compare(files_with_copies(frame, shards))
        return frame.take(order[first]).reset_index(drop=True)

    def _load(self, wanted: Wanted) -> dict[Path, pa.Table]:
        """The intact shards."""

        def load(path: Path) -> pa.Table | None:
            try:
                return decode(path, wanted, self.cell)
            except CorruptShard as error:
                set_aside(path, error)
                return None

        paths = self._shards()
        tables = zip(paths, _each(load, paths), strict=True)
        return {path: table for path, table in tables if table is not None}

    def _compare(self, paths: Iterable[Path]) -> None:
        """Raise DifferentCopies unless rows stored twice agree in every column that both have,
        images included.

        Metrics are added to finished rows by writing their chunk anew; the copy in a pack lacks
        them.
        """
        tables = [decode(path, every_column, self.cell) for path in paths]
        frame = pa.concat_tables(
            [hashable(table) for table in tables], promote_options="default"
        ).to_pandas()
        copies = frame[frame.duplicated(KEY, keep=False)].drop(columns=[*TIMINGS], errors="ignore")
        there = [[name in table.column_names for name in copies.columns] for table in tables]
        has = np.repeat(there, [len(table) for table in tables], axis=0)
        both = pd.DataFrame(has[copies.index], copies.index, copies.columns).groupby(
            [copies[k] for k in KEY]
        )
        shared = both.transform("all")
        distinct = copies.where(shared, None).drop_duplicates()
        bad = distinct[distinct.duplicated(KEY)]
        if len(bad):
            first = bad.iloc[0]
            raise DifferentCopies(
                f"{self.folder}: image '{first['image_id']}' draw {first['draw']} is stored twice "
                f"with different "
                f"results ({len(bad)} such rows); find out which run is right and remove the "
                f"other's shard"
            )


def _each(work: Callable[[Path], T], paths: Sequence[Path]) -> list[T]:
    """In threads, because on a network folder waiting for files is most of the time."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, paths))


def _steady(read: Callable[[], T], tries: int = 5) -> T:
    """What ``read`` gives; once more where a file is gone that was there, because it has just been
    merged.
    """
    for _ in range(tries - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()
