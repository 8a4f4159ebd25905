"""The files of rows: Parquet with a checksum per page and a seal in the footer."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from posterior_bench.bench.core.errors import WrongCell
from posterior_bench.bench.store.schema import BULKY, Row, Wanted, rows_table

_SEAL = b"bench"


_CHUNKS = b"bench.chunks"


_CELL = b"bench.cell"


PACK = "packed-"
"""Starts the names of packs, and of no chunk."""


_GROUP_ROWS, _GROUP_BYTES = 5000, 8 * 2**20
"""When a row group of a pack is large enough: more cost whoever wants one chunk, and fewer whoever
wants all."""


_LOG = logging.getLogger(__name__)


class CorruptShard(ValueError):
    """A shard that is truncated, or whose content is not what was written."""


def encoded_size(rows: Sequence[Row], cell: str = "0" * 16) -> int:
    """The bytes of a shard that holds these rows; nothing is written."""
    return len(encode("00000", rows_table("00000", rows), cell))


def encode(chunk: str, table: pa.Table, cell: str) -> bytes:
    return encode_pack(chunk, {chunk: table}, cell)


def encode_pack(name: str, tables: Mapping[str, pa.Table], cell: str) -> bytes:
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
        seal = seal_of(name, rows, schema, chunks, cell)
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


def seal_of(name: str, rows: int, schema: pa.Schema, chunks: str, cell: str = "") -> str:
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


def decode(path: Path, wanted: Wanted, cell: str, chunk: str | None = None) -> pa.Table:
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
            seal = seal_of(path.stem, file.metadata.num_rows, file.schema_arrow, chunks, cell)
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


def column_names(path: Path) -> list[str]:
    with _open(path) as file:
        return file.schema_arrow.names


def chunks_in(path: Path, cell: str) -> list[str]:
    """The chunks in a file of a cell."""
    with _open(path) as file:
        _demand_cell(path, file, cell)
        chunks = (file.metadata.metadata or {}).get(_CHUNKS)
    return [path.stem] if chunks is None else list(json.loads(chunks))


def set_aside(path: Path, error: CorruptShard) -> None:
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
