"""Read and write row files: Parquet with a checksum per page and a seal in the footer.

A shard holds the rows of one chunk. A pack holds those of several chunks and says which, and how
many rows each has. The footer names the cell. The seal is a hash of what page checksums do not
guard: the name of the file, the types of the columns, the number of rows, the chunks and the cell.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
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
    """Return the size in bytes of a shard with these rows; nothing is written."""
    return len(encode_shard("00000", rows_table("00000", rows), cell))


def encode_shard(chunk: str, table: pa.Table, cell: str) -> bytes:
    """Return the bytes of a shard."""
    return encode_pack(chunk, {chunk: table}, cell)


def encode_pack(name: str, tables: Mapping[str, pa.Table], cell: str) -> bytes:
    """Return the bytes of a Parquet file with the rows of one or several chunks.

    The layout is chosen for speed with thousands of small files: no dictionaries, no statistics,
    snappy. A row group holds one chunk, or as many small ones as are worth reading at once.
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
    """Yield tables of neighbouring chunks, joined until they are large; no chunk is split."""
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
    """Return the hash that the footer must agree with.

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


def decode_shard(path: Path, wanted: Wanted, cell: str, chunk: str | None = None) -> pa.Table:
    """Read the wanted columns of a file, or of one of its chunks, and check every page.

    Raises
    ------
    CorruptShard
        If the file is damaged.
    WrongCell
        If it holds rows of another cell.
    FileNotFoundError
        If ``chunk`` is not in the file.
    """
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


def decode_images(path: Path, wanted: Wanted, cell: str, images: Collection[str]) -> pa.Table:
    """Read the wanted columns of the rows of some images.

    Row groups without such a row are not read, so a picture costs no more than its chunk.

    Raises
    ------
    CorruptShard
        If what is read is damaged.
    WrongCell
        If the file holds rows of another cell.
    """
    ids = pa.array(sorted(images), pa.string())

    def has(group: int) -> bool:
        found = file.read_row_group(group, columns=["image_id"], use_threads=False)
        return bool(pc.any(pc.is_in(found["image_id"], ids)).as_py())

    with _open(path) as file:
        _demand_cell(path, file, cell)
        names = [name for name in file.schema_arrow.names if wanted(name)]
        groups = [group for group in range(file.num_row_groups) if has(group)]
        table = file.read_row_groups(groups, columns=names, use_threads=False)
    table = table.replace_schema_metadata()
    return table.filter(pc.is_in(table["image_id"], ids))


def _demand_cell(path: Path, file: pq.ParquetFile, cell: str) -> None:
    """Raise WrongCell for a file of another cell; in old files only the rows name the cell."""
    bound = (file.metadata.metadata or {}).get(_CELL, b"").decode()
    found = (
        {bound}
        if bound
        else {*file.read(columns=["cell"], use_threads=False)["cell"].unique().to_pylist()}
    )
    if strange := sorted(map(str, found - {cell})):
        raise WrongCell(
            f"{path} holds rows of the cell {strange[0]}, but lies in the folder of {cell}; move "
            f"it to {strange[0]}/rows if it is missing there, else remove it"
        )


def _place(file: pq.ParquetFile, chunk: str) -> tuple[int, int, int]:
    """Return the row group that holds a chunk of a pack, its first row there, and its row count."""
    group, first = 0, 0
    for name, rows in _sizes(file).items():
        if name == chunk:
            return group, first, rows
        first += rows
        if first == file.metadata.row_group(group).num_rows:
            group, first = group + 1, 0
    raise FileNotFoundError(chunk)


def _sizes(file: pq.ParquetFile) -> dict[str, int]:
    """Return the chunks of a pack and their row counts.

    Old packs have one row group per chunk and list only the names.
    """
    chunks = json.loads((file.metadata.metadata or {})[_CHUNKS])
    if isinstance(chunks, dict):
        return chunks
    return {name: file.metadata.row_group(i).num_rows for i, name in enumerate(chunks)}


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard with a sound footer; wrong bytes raise CorruptShard, a failing disk OSError."""
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
    """Return the names of the columns in a file."""
    with _open(path) as file:
        return file.schema_arrow.names


def chunks_in(path: Path, cell: str) -> list[str]:
    """Return the names of the chunks in a file of a cell."""
    with _open(path) as file:
        _demand_cell(path, file, cell)
        chunks = (file.metadata.metadata or {}).get(_CHUNKS)
    return [path.stem] if chunks is None else list(json.loads(chunks))


def set_aside(path: Path, error: CorruptShard) -> None:
    """Rename a corrupt shard, so that its chunk counts as missing and can still be looked at."""
    _LOG.warning(
        "%s is corrupt: %s; its rows count as missing, run the study again to redo them",
        path,
        error,
    )
    try:
        path.replace(path.with_name(f".{path.name}.corrupt"))
    except OSError as failure:
        _LOG.warning("%s could not be set aside: %s", path, failure)
