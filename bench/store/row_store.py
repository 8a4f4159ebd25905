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

import io
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posterior_bench.bench.core.errors import WrongCell

FIXED = pa.schema(
    [
        ("cell", pa.string()),
        ("image_id", pa.string()),
        ("draw", pa.int64()),
        ("status", pa.string()),
        ("message", pa.string()),
        ("seconds_fit", pa.float64()),
        ("seconds_sample", pa.float64()),
        ("nfe", pa.float64()),
        ("nge", pa.float64()),
        ("decode", pa.float64()),
        ("decode_grad", pa.float64()),
        ("encode", pa.float64()),
        ("encode_grad", pa.float64()),
        ("peak_mib", pa.float64()),
        ("png", pa.binary()),
        ("device", pa.string()),
        ("build", pa.string()),
        ("threads", pa.int64()),
        ("precision", pa.string()),
        ("padded_batch", pa.int64()),
        ("commit", pa.string()),
        ("truth", pa.string()),
        ("code", pa.string()),
        ("version", pa.string()),
    ]
)
"""The columns every row has, in this order. Every other column but :data:`TRACE` is a metric,
sorted by its id: a number (float64), or the features of a set metric (a list of float32, empty
where there are none). ``truth`` hashes the pixels that the row was measured on, ``code`` the source
of its solver, ``version`` is that of this product; in shards that were written before version 0.2.0
they are null."""

TRACE = "trace"
"""The column of :mod:`bench.store.trace`, in shards that were written with ``trace=true`` and have
something to tell."""

BULKY = ("png", TRACE)
"""Columns that are read only where they are asked for."""

FEATURES = pa.list_(pa.field("element", pa.float32()))
TRUTH = "_truth"
"""Ends the name of the column with the features of the original images, as in ``metrics.features``.
"""

KEY = ["cell", "image_id", "draw"]
TIMINGS = {"seconds_fit", "seconds_sample", "peak_mib"}
"""What two honest copies of a row may differ in."""

Row = Mapping[str, object]
Wanted = Callable[[str], bool]
"""Which columns are read."""
T = TypeVar("T")
_SEAL = b"bench"
_CHUNKS = b"bench.chunks"
_CELL = b"bench.cell"
PACK = "packed-"
"""Starts the names of packs, and of no chunk."""

_GROUP_ROWS, _GROUP_BYTES = 5000, 8 * 2**20
"""When a row group of a pack is large enough: more cost whoever wants one chunk, and fewer whoever
wants all."""

_CHUNK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STALE_SECONDS = 3600
_LOG = logging.getLogger(__name__)


class CorruptShard(ValueError):
    """A shard that is truncated, or whose content is not what was written."""


class DifferentCopies(ValueError):
    """Two shards hold the same row with different results."""


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a reader, or a crash, sees the old file or the new one,
    never a part.
    """
    part = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{time.time_ns()}.tmp")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
        data = _encode(chunk, _table(chunk, rows), self.cell)
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
            kind = _type(values)
            table = table.append_column(pa.field(name, kind), pa.array(values, kind))
        write_atomic(
            self._path(chunk), _encode(chunk, table.select(_ordered(table.column_names)), self.cell)
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
            else [pack for pack in self.packs() if chunk in _held(pack, self.cell)]
        )
        if not files:
            raise FileNotFoundError(f"chunk '{chunk}' is not stored in {self.folder}")
        return {*_columns(files[0])}

    def columns(self) -> list[str]:
        """The names of the columns of one stored chunk, from a footer alone; none where nothing is
        stored.
        """
        return next((_columns(path) for path in self._shards() if self._sound(path)), [])

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
        return _held(pack, self.cell)

    def _sound(self, path: Path) -> list[str]:
        """The chunks in a file; a corrupt one is reported and set aside, and holds none."""
        try:
            return _held(path, self.cell)
        except CorruptShard as error:
            _set_aside(path, error)
            return []

    def pack(self, chunks: Sequence[str]) -> Path:
        """Write one file that holds these stored chunks, whose columns agree; returns it, read once
        more and sound.

        Nothing is removed: until the chunks' own files are, readers see every row twice and count
        it once.
        """
        name = PACK + blake2b("\n".join(chunks).encode(), digest_size=8).hexdigest()
        tables = {chunk: self.table(chunk) for chunk in chunks}
        write_atomic(path := self._path(name), _encode_all(name, tables, self.cell))
        _decode(path, _everything, self.cell)
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
        return _complete(self._rows(columns, but), columns, self.folder)

    def sweep(self) -> list[Path]:
        """Remove what killed writers left: dot-files of dead processes of this host, and any older
        than an hour.
        """
        stale = [path for path in self.folder.glob(".*.tmp") if _is_stale(path)]
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
            return _decode(path, _everything, self.cell)
        for pack in self.packs():
            if chunk in _held(pack, self.cell):
                return _decode(pack, _everything, self.cell, chunk)
        raise FileNotFoundError(f"chunk '{chunk}' is not stored in {self.folder}")

    def _rows(self, columns: Sequence[str] | None, but: Collection[str] = BULKY) -> pd.DataFrame:
        """Those of ``columns`` (and of the key) that some shard has, each row once, sorted."""
        wanted = _wanted(columns, but)
        shards = _steady(lambda: self._load(wanted))
        table = pa.concat_tables([_empty(wanted), *shards.values()], promote_options="default")
        frame, keys = table.to_pandas(), _keys(table)
        if _increase(keys).all():  # as they do where images are planned in the order of their ids
            return frame
        order = np.lexsort(keys[::-1])
        first = _increase([key[order] for key in keys])
        if not first.all():
            self._compare(_owners(frame, shards))
        return frame.take(order[first]).reset_index(drop=True)

    def _load(self, wanted: Wanted) -> dict[Path, pa.Table]:
        """The intact shards."""

        def load(path: Path) -> pa.Table | None:
            try:
                return _decode(path, wanted, self.cell)
            except CorruptShard as error:
                _set_aside(path, error)
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
        tables = [_decode(path, _everything, self.cell) for path in paths]
        frame = pa.concat_tables(
            [_hashable(table) for table in tables], promote_options="default"
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


def read_study(study: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of every cell of a study, sorted by cell, image id and draw; see
    :meth:`RowStore.read`.

    ``columns``: None = all but :data:`BULKY`. A metric that a cell was not scored by is NaN there.
    """
    folders = sorted(path.parent for path in Path(study).glob("cells/*/rows"))
    frames = [RowStore(folder)._rows(columns) for folder in folders]
    full = [frame for frame in frames if len(frame)]
    empty = _empty(_wanted(columns, BULKY)).to_pandas()
    return _complete(pd.concat(full, ignore_index=True) if full else empty, columns, Path(study))


def encoded_size(rows: Sequence[Row], cell: str = "0" * 16) -> int:
    """The bytes of a shard that holds these rows; nothing is written."""
    return len(_encode("00000", _table("00000", rows), cell))


def _everything(column: str) -> bool:
    return True


def _wanted(columns: Sequence[str] | None, but: Collection[str]) -> Wanted:
    names = {*KEY, *(columns or ())}
    return (lambda name: name not in but) if columns is None else (lambda name: name in names)


def _complete(frame: pd.DataFrame, columns: Sequence[str] | None, where: Path) -> pd.DataFrame:
    """The key and the columns asked for, in their order; a name that no row has is a mistake."""
    missing = sorted({*(columns or ())} - {*frame.columns})
    if missing and len(frame):
        raise ValueError(f"no row in {where} has the column {', '.join(missing)}")
    return frame.reindex(columns=_ordered(frame.columns if columns is None else [*KEY, *columns]))


def _ordered(names: Iterable[str]) -> list[str]:
    """Fixed columns in their order, then metrics sorted."""
    given = {*names}
    return [name for name in FIXED.names if name in given] + sorted(given - {*FIXED.names})


def _hashable(table: pa.Table) -> pa.Table:
    """The table with features as text, so that rows can be compared."""
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            text = [None if value is None else repr(value) for value in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(text, pa.string()))
    return table


def _empty(wanted: Wanted) -> pa.Table:
    fields = [field for field in FIXED if wanted(field.name)]
    return pa.schema(fields).empty_table()


def _keys(table: pa.Table) -> list[NDArray[np.int64]]:
    """The columns of :data:`KEY` as numbers that sort as they do."""
    return [_ranked(table[name].combine_chunks()) for name in KEY[:2]] + [table["draw"].to_numpy()]


def _ranked(texts: pa.StringArray) -> NDArray[np.int64]:
    """The place of every text among the different ones: a cell has few images beside its rows."""
    encoded = texts.dictionary_encode()
    place = np.empty(len(encoded.dictionary), dtype=np.int64)
    place[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(place))
    return place[encoded.indices.to_numpy()]


def _increase(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Whether a row has a larger key than the one before; the first has."""
    larger = np.zeros(max(len(keys[0]) - 1, 0), dtype=bool)
    for key in keys[::-1]:
        larger = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & larger)
    return np.concatenate([np.ones(min(len(keys[0]), 1), dtype=bool), larger])


def _owners(frame: pd.DataFrame, shards: Mapping[Path, pa.Table]) -> list[Path]:
    """The shards with a row that another shard has too; ``frame`` is their rows one after the
    other.
    """
    shard_of_row = np.repeat(np.arange(len(shards)), [table.num_rows for table in shards.values()])
    paths = list(shards)
    return [paths[i] for i in np.unique(shard_of_row[frame.duplicated(KEY, keep=False)])]


def _table(chunk: str, rows: Sequence[Row]) -> pa.Table:
    """The rows as a table of the fixed columns and the metrics."""
    if not rows:
        raise ValueError(
            f"chunk '{chunk}' has no rows; a failed row is a row, with its status and message"
        )
    lacking = [name for name in (*KEY, "status") if any(row.get(name) is None for row in rows)]
    if lacking:
        raise ValueError(f"chunk '{chunk}' has a row without {', '.join(lacking)}")
    if len({tuple(row[name] for name in KEY) for row in rows}) < len(rows):
        raise ValueError(f"chunk '{chunk}' has two rows of the same image and draw")
    metrics = sorted({name for row in rows for name in row} - {*FIXED.names})
    schema = pa.schema(
        [*FIXED, *(pa.field(name, _type([row.get(name) for row in rows])) for name in metrics)]
    )
    table = pa.Table.from_arrays(
        [pa.array([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema
    )
    return table


def _type(values: Sequence[object]) -> pa.DataType:
    """What the values of a metric, or a trace, are stored as."""
    if any(isinstance(value, bytes) for value in values):
        return pa.binary()
    return FEATURES if any(isinstance(value, list) for value in values) else pa.float64()


def _encode(chunk: str, table: pa.Table, cell: str) -> bytes:
    return _encode_all(chunk, {chunk: table}, cell)


def _encode_all(name: str, tables: Mapping[str, pa.Table], cell: str) -> bytes:
    """Parquet bytes, laid out for speed with thousands of small shards: no dictionaries, no
    statistics, snappy.

    A row group holds a chunk, or as many small ones as it takes to read many rows at once.
    """
    schema = next(iter(tables.values())).schema
    codecs = {column: "none" if column in BULKY else "snappy" for column in schema.names}
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        schema,
        compression=codecs,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        for group in _row_groups(tables.values()):
            writer.write_table(group, row_group_size=group.num_rows)
        sizes = {chunk: table.num_rows for chunk, table in tables.items()}
        chunks = json.dumps(sizes) if name.startswith(PACK) else ""
        rows = sum(sizes.values())
        metadata = {_CHUNKS: chunks} if chunks else {}
        seal = _seal(name, rows, schema, chunks, cell)
        writer.add_key_value_metadata({_SEAL: seal, _CELL: cell, **metadata})
    return sink.getvalue()


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Neighbours together until they are large; none is split."""
    group: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        group.append(table)
        rows, size = rows + len(table), size + table.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.concat_tables(group)
            group, rows, size = [], 0, 0
    if group:
        yield pa.concat_tables(group)


def _seal(name: str, rows: int, schema: pa.Schema, chunks: str, cell: str = "") -> str:
    """What the footer must agree with: page checksums guard the values, and this names, types,
    length and cell.

    Files that were written before version 0.2.0 do not name their cell.
    """
    columns = [(field.name, str(field.type)) for field in schema]
    content = (
        name,
        rows,
        columns,
        *([chunks] if chunks else []),
        *([("cell", cell)] if cell else []),
    )
    return blake2b(repr(content).encode(), digest_size=16).hexdigest()


def _decode(path: Path, wanted: Wanted, cell: str, chunk: str | None = None) -> pa.Table:
    """The wanted columns of a file of a cell, or of one of its chunks, checked page by page."""
    with _open(path) as file:
        _demand_cell(path, file, cell)
        names = [name for name in file.schema_arrow.names if wanted(name)]
        if chunk is None:
            table, first, rows = (
                file.read(columns=names, use_threads=False),
                0,
                file.metadata.num_rows,
            )
        else:
            group, first, rows = _place(file, chunk)
            table = file.read_row_group(group, columns=names, use_threads=False)
        table = table.replace_schema_metadata().slice(first, rows)
        if len(table) != rows:
            raise CorruptShard("it ends early")
    return table


def _demand_cell(path: Path, file: pq.ParquetFile, cell: str) -> None:
    """Raise WrongCell for a file of another cell; of an old one, whose footer does not say, the
    rows do.
    """
    bound = (file.metadata.metadata or {}).get(_CELL, b"").decode()
    found = (
        {bound}
        if bound
        else {*file.read(columns=["cell"], use_threads=False)["cell"].unique().to_pylist()}
    )
    if strange := sorted(map(str, found - {cell})):
        raise WrongCell(
            f"{path} holds rows of the cell {strange[0]}, but lies in the folder of {cell}; move "
            f"it to "
            f"{strange[0]}/rows if it is missing there, else remove it"
        )


def _place(file: pq.ParquetFile, chunk: str) -> tuple[int, int, int]:
    """The row group that holds a chunk of a pack, the first of its rows there, and their number."""
    group, first = 0, 0
    for name, rows in _sizes(file).items():
        if name == chunk:
            return group, first, rows
        first += rows
        if first == file.metadata.row_group(group).num_rows:
            group, first = group + 1, 0
    raise FileNotFoundError(chunk)


def _sizes(file: pq.ParquetFile) -> dict[str, int]:
    """The chunks of a pack and their numbers of rows; packs once had a row group for each, and
    named them alone.
    """
    chunks = json.loads((file.metadata.metadata or {})[_CHUNKS])
    if isinstance(chunks, dict):
        return chunks
    return {name: file.metadata.row_group(i).num_rows for i, name in enumerate(chunks)}


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard with a sound footer. Raises CorruptShard where bytes are wrong; a failing disk stays
    an OSError.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.metadata.metadata or {}
            chunks = metadata.get(_CHUNKS, b"").decode()
            cell = metadata.get(_CELL, b"").decode()
            seal = _seal(path.stem, file.metadata.num_rows, file.schema_arrow, chunks, cell)
            if metadata.get(_SEAL) != seal.encode():
                raise CorruptShard("its footer is not what was written for a chunk of this name")
            yield file
    except (CorruptShard, WrongCell):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise CorruptShard(f"it cannot be decoded: {error}") from error
    except Exception as error:  # damaged bytes surface as almost any error of the decoder
        raise CorruptShard(f"it cannot be decoded: {error}") from error


def _columns(path: Path) -> list[str]:
    with _open(path) as file:
        return file.schema_arrow.names


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


def _held(path: Path, cell: str) -> list[str]:
    """The chunks in a file of a cell."""
    with _open(path) as file:
        _demand_cell(path, file, cell)
        chunks = (file.metadata.metadata or {}).get(_CHUNKS)
    return [path.stem] if chunks is None else list(json.loads(chunks))


def _set_aside(path: Path, error: CorruptShard) -> None:
    """Rename, never delete: the chunk counts as missing, and what is left of it can still be looked
    at.
    """
    _LOG.warning(
        "%s is corrupt: %s; its rows count as missing, run the study again to redo them",
        path,
        error,
    )
    try:
        path.replace(path.with_name(f".{path.name}.corrupt"))
    except OSError as failure:
        _LOG.warning("%s could not be set aside: %s", path, failure)


def _is_stale(path: Path) -> bool:
    """By age, or because its writer is dead; a process number says nothing about processes of
    another host.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    _, host, process, _, _ = path.name.rsplit(".", 4)
    return age > _STALE_SECONDS or (host == _host() and not _is_alive(int(process)))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
