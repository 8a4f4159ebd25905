"""The rows of one cell: a Parquet file per finished chunk.

A shard is built in memory, written to a dot-file of the same folder, synced and renamed. So a
reader sees a whole shard or none, on a local disk and on a shared folder without locks, and a chunk
that is written twice replaces itself. Shards of finished chunks can be merged into a pack
(:mod:`bench.store.compaction`). Every file names its cell; readers refuse it in the folder of
another one.
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
    decode_images,
    decode_shard,
    encode_pack,
    encode_shard,
    set_aside,
)

T = TypeVar("T")


_CHUNK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class RowStore:
    """The rows of one cell, in ``<cell folder>/rows/<chunk>.parquet``.

    Many processes may write at once. Every method that reads raises WrongCell where a file belongs
    to another cell.

    Parameters
    ----------
    cell_folder : Path or str
        The folder of the cell; it has the name of the cell.
    """

    def __init__(self, cell_folder: Path | str):
        self.cell = Path(cell_folder).absolute().name
        self.folder = Path(cell_folder) / "rows"

    def write(self, chunk: str, rows: Sequence[Row]) -> None:
        """Store the rows of a chunk, all or nothing; a chunk written again replaces itself.

        Parameters
        ----------
        chunk : str
            Name of the chunk: letters, digits, ``_``, ``-`` and ``.``.
        rows : sequence of mappings
            A row has the keys of :data:`FIXED` (absent ones become null; ``cell``, ``image_id``,
            ``draw`` and ``status`` are required) and one value per metric id. None = not computed;
            NaN and infinity are kept. A list of numbers is stored as features; bytes are kept as
            they are.

        Raises
        ------
        ValueError
            For a bad chunk name, no rows, a row without key or of another cell, and two rows with
            the same key.
        """
        path = self._path(chunk)
        if chunk.startswith(PACK):
            raise ValueError(
                f"chunk name '{chunk}' is reserved for packs: do not begin it with '{PACK}'"
            )
        strange = {str(row.get("cell")) for row in rows} - {self.cell, "None"}
        if strange:
            raise ValueError(
                f"chunk '{chunk}' has rows of the cell {min(strange)}, but this folder is of "
                f"{self.cell}"
            )
        data = encode_shard(chunk, rows_table(chunk, rows), self.cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    def adopt(self, chunk: str, table: pa.Table) -> None:
        """Store rows of another cell as a chunk of this one, all or nothing.

        Parameters
        ----------
        chunk : str
            Name of the chunk.
        table : Table
            All columns of the rows; only their ``cell`` is changed.
        """
        name = pa.array([self.cell] * table.num_rows, pa.string())
        table = table.set_column(table.column_names.index("cell"), "cell", name)
        path = self._path(chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        names = column_order(table.column_names)
        write_atomic(path, encode_shard(chunk, table.select(names), self.cell))

    def extend(self, chunk: str, rows: Sequence[Row]) -> None:
        """Add columns to a stored chunk, all or nothing; stored values stay bit for bit.

        Parameters
        ----------
        chunk : str
            Name of the chunk.
        rows : sequence of mappings
            The new columns of every stored row, in the stored order.

        Raises
        ------
        ValueError
            If a column is stored already, or if the number of rows differs.
        CorruptShard
            If the shard is damaged.
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
            encode_shard(chunk, table.select(column_order(table.column_names)), self.cell),
        )

    def stored(self, chunk: str) -> tuple[list[str], pd.DataFrame]:
        """Return all columns of a chunk and its rows, images included.

        Raises
        ------
        CorruptShard
            If the shard is damaged.
        """
        table = self.table(chunk)
        return table.column_names, table.to_pandas()

    def columns_of(self, chunk: str) -> set[str]:
        """Return the names of the columns of a stored chunk.

        Raises
        ------
        FileNotFoundError
            If the chunk is not stored.
        """
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
        """Return the names of the columns of any stored chunk; none if nothing is stored."""
        return next((column_names(path) for path in self._shards() if self._sound(path)), [])

    def has(self, chunk: str) -> bool:
        """Return whether a chunk is stored with a sound footer; a corrupt shard is set aside."""
        path = self._path(chunk)
        return (path.exists() and bool(self._sound(path))) or any(
            chunk in self._sound(p) for p in self.packs()
        )

    def done(self) -> set[str]:
        """Return the names of the finished chunks.

        Only footers are read. Corrupt shards are reported and set aside.
        """
        return _steady(lambda: {*chain.from_iterable(_each(self._sound, self._shards()))})

    def shards(self) -> list[Path]:
        """Return the files that hold one chunk each, sorted."""
        return [path for path in self._shards() if not path.name.startswith(PACK)]

    def packs(self) -> list[Path]:
        """Return the files that hold several chunks each, sorted."""
        return [path for path in self._shards() if path.name.startswith(PACK)]

    def held(self, pack: Path) -> list[str]:
        """Return the chunks in a pack, in its order.

        Raises
        ------
        CorruptShard
            If the pack is damaged.
        """
        return chunks_in(pack, self.cell)

    def _sound(self, path: Path) -> list[str]:
        """Return the chunks in a file; a corrupt file is set aside and holds none."""
        try:
            return chunks_in(path, self.cell)
        except CorruptShard as error:
            set_aside(path, error)
            return []

    def pack(self, chunks: Sequence[str]) -> Path:
        """Write one file that holds these stored chunks, check it, and return its path.

        Nothing is removed. Until the chunks' own files are, readers see every row twice and count
        it once. The columns of the chunks must agree.
        """
        name = PACK + blake2b("\n".join(chunks).encode(), digest_size=8).hexdigest()
        tables = {chunk: self.table(chunk) for chunk in chunks}
        write_atomic(path := self._path(name), encode_pack(name, tables, self.cell))
        decode_shard(path, every_column, self.cell)
        return path

    def read(
        self,
        columns: Sequence[str] | None = None,
        but: Collection[str] = BULKY,
        images: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Read the rows, sorted by image id and draw.

        Every page is checked against its checksum. A corrupt shard is reported and set aside; its
        rows are then missing, and the next run computes them again. A row that is stored twice
        comes once.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns to read besides the key; None = all but ``but``. A metric that some shards lack
            is NaN there.
        but : collection of str, default BULKY
            Columns to leave out where ``columns`` is None.
        images : collection of str, optional
            The images whose rows are read; None = all.

        Raises
        ------
        DifferentCopies
            If two copies of a row differ in anything but timings.
        ValueError
            If no shard has one of the columns.
        """
        return complete(self._rows(columns, but, images), columns, self.folder)

    def sweep(self) -> list[Path]:
        """Remove the dot-files of dead processes of this host, and any older than an hour."""
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
        """Return all files, packs last.

        Of two copies of a row, the copy in the chunk's own file is read, which may have more
        columns.
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
        """Return all columns of a stored chunk, from its own file or from a pack.

        Raises
        ------
        FileNotFoundError
            If the chunk is not stored.
        """
        return _steady(lambda: self._find(chunk))

    def _find(self, chunk: str) -> pa.Table:
        path = self._path(chunk)
        if path.exists():
            return decode_shard(path, every_column, self.cell)
        for pack in self.packs():
            if chunk in chunks_in(pack, self.cell):
                return decode_shard(pack, every_column, self.cell, chunk)
        raise FileNotFoundError(f"chunk '{chunk}' is not stored in {self.folder}")

    def _rows(
        self,
        columns: Sequence[str] | None,
        but: Collection[str] = BULKY,
        images: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Read the columns that some shard has, each row once, sorted."""
        wanted = wanted_columns(columns, but)
        shards = _steady(lambda: self._load(wanted, images))
        table = pa.concat_tables([empty_table(wanted), *shards.values()], promote_options="default")
        frame, keys = table.to_pandas(), key_columns(table)
        if increasing(keys).all():  # as they do where images are planned in the order of their ids
            return frame
        order = np.lexsort(keys[::-1])
        first = increasing([key[order] for key in keys])
        if not first.all():
            self._compare(files_with_copies(frame, shards))
        return frame.take(order[first]).reset_index(drop=True)

    def _load(self, wanted: Wanted, images: Collection[str] | None) -> dict[Path, pa.Table]:
        """Read the intact shards."""

        def load(path: Path) -> pa.Table | None:
            try:
                if images is not None:
                    return decode_images(path, wanted, self.cell, images)
                return decode_shard(path, wanted, self.cell)
            except CorruptShard as error:
                set_aside(path, error)
                return None

        paths = self._shards()
        tables = zip(paths, _each(load, paths), strict=True)
        return {path: table for path, table in tables if table is not None}

    def _compare(self, paths: Iterable[Path]) -> None:
        """Raise DifferentCopies unless the copies of a row agree in every column that both have.

        Metrics are added to finished rows by writing their chunk anew; the copy in a pack lacks
        them.
        """
        tables = [decode_shard(path, every_column, self.cell) for path in paths]
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
                f"with different results ({len(bad)} such rows); find out which run is right and "
                "remove the other's shard"
            )


def _each(work: Callable[[Path], T], paths: Sequence[Path]) -> list[T]:
    """Call ``work`` on every path, in threads: on a network folder most of the time is waiting."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, paths))


def _steady(read: Callable[[], T], tries: int = 5) -> T:
    """Call ``read``, again if a file is gone that was there, because it has just been merged."""
    for _ in range(tries - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()
