"""Read Parquet files of the Hugging Face hub with the columns ``image`` and ``label``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from posterior_bench.datasets.limits import available_memory
from posterior_bench.datasets.source import Layout, Naming, Source, by_id


class Parquet(Source):
    """Rows of Parquet files.

    The id is made from the file name in ``image.path`` or, if any row has none, from the number of
    the row. Only the names are read to list the images. Images are read one group of rows at a
    time, labels at first use.

    Parameters
    ----------
    files : list[Path]
        The Parquet files.
    naming : Callable[[str], str]
        Function that returns the id for a file name.

    Raises
    ------
    ValueError
        If a file cannot be read or lacks the column ``image``, and if two rows have the same id.
    """

    def __init__(self, files: list[Path], naming: Naming):
        self._files = [_open(path) for path in files]
        self._paths = files
        rows = [
            (f, group, row)
            for f, file in enumerate(self._files)
            for group in range(file.num_row_groups)
            for row in range(file.metadata.row_group(group).num_rows)
        ]
        names = self._names(len(rows))
        found = by_id(map(str, range(len(rows))), lambda row: naming(names[int(row)]))
        self._rows = {image: rows[int(row)] for image, row in found.items()}
        self.ids = tuple(sorted(found))
        self.labelled = all("label" in file.schema_arrow.names for file in self._files)
        self._group = lru_cache(maxsize=2)(self._read_group)
        self._labels = lru_cache(maxsize=64)(self._read_labels)

    @override
    def stored(self, image: str) -> bytes:
        file, group, row = self._rows[image]
        self._demand_moderate(file, group)
        return self._group(file, group)[row].as_py()["bytes"] or b""

    @override
    def file(self, image: str) -> tuple[str, str]:
        file, group, row = self._rows[image]
        return str(self._paths[file]), f"{group} {row}"

    @override
    def where(self, image: str) -> str:
        file, group, row = self._rows[image]
        name = "" if image.isdigit() else f" ({image})"
        return f"{self._paths[file]}, group {group}, row {row}{name}"

    @override
    def label(self, image: str) -> int:
        file, group, row = self._rows[image]
        value = self._labels(file, group)[row].as_py()
        if type(value) is not int:
            raise ValueError(
                f"image '{self.where(image)}' has the label {value}, not a whole number"
            )
        return value

    def _names(self, count: int) -> list[str]:
        """Return a name for every row: its file name, or its number if any row has no file name."""
        names: list[str | None] = []
        for file in self._files:
            if "path" in [field.name for field in file.schema_arrow.field("image").type]:
                column = file.read(columns=["image.path"])["image"]
                names += [value and value["path"] for value in column.to_pylist()]
        if len(names) == count and all(names):
            return [str(name) for name in names]
        return [f"{row:08d}" for row in range(count)]

    def _demand_moderate(self, file: int, group: int) -> None:
        """Raise ValueError if a group of rows, which is read whole, exceeds the free memory."""
        there = self._files[file].metadata.row_group(group)
        columns = map(there.column, range(there.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == "image.bytes")
        if size > (free := available_memory()):
            raise ValueError(
                f"its group of rows takes {size / 2**30:.1f} GiB of memory, "
                f"{free / 2**30:.1f} are free"
            )

    def _read_group(self, file: int, group: int) -> pa.ChunkedArray:
        return self._files[file].read_row_group(group, columns=["image.bytes"])["image"]

    def _read_labels(self, file: int, group: int) -> pa.ChunkedArray:
        return self._files[file].read_row_group(group, columns=["label"])["label"]


def parquet(naming: Naming) -> Layout:
    """Return the layout of one Parquet file, or of a folder with such files on up to three levels.

    If the paths of some files contain ``val``, only these are read.
    """

    def find(root: Path) -> Source | None:
        below = (path for pattern in _PLACES for path in root.glob(pattern))
        files = [root] if root.suffix == ".parquet" else sorted(below)
        files = [f for f in files if f.relative_to(root.parent).as_posix().count("val")] or files
        _demand_all(files)
        return Parquet(files, naming) if files else None

    return Layout("*.parquet of the hub with the columns image and label", find)


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"cannot read {path} as Parquet: {error}; fetch it again") from error
    names = file.schema_arrow.names
    image = file.schema_arrow.field("image").type if "image" in names else pa.null()
    if file.metadata.num_rows > path.stat().st_size:  # every image takes at least a byte
        raise ValueError(
            f"{path} claims {file.metadata.num_rows} rows in {path.stat().st_size} "
            "bytes; fetch it again"
        )
    if not pa.types.is_struct(image) or "bytes" not in [field.name for field in image]:
        raise ValueError(
            f"{path} needs a column 'image' with bytes and path, as on the hub; "
            f"it has {', '.join(names)}"
        )
    return file


def _demand_all(files: Iterable[Path]) -> None:
    """Raise ValueError if files named ``...-00003-of-00014`` are incomplete."""
    parts = [
        (m.group(1), int(m.group(2)), int(m.group(3))) for f in files if (m := _PART.match(f.stem))
    ]
    for name, total in sorted({(name, total) for name, _, total in parts}):
        missing = sorted(
            set(range(total)) - {part for n, part, t in parts if (n, t) == (name, total)}
        )
        if missing:
            wanted = f"{name}-{missing[0]:05d}-of-{total:05d}.parquet"
            raise ValueError(
                f"{wanted} is missing ({len(missing)} of {total} files are); fetch it as well"
            )


_PLACES = ("*.parquet", "*/*.parquet", "default/*/*.parquet")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})$")
