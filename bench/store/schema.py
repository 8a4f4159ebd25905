"""The columns of a row, and rows as an Arrow table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

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
        ("nfe_fit", pa.float64()),
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
        ("task_version", pa.string()),
        ("study_version", pa.string()),
        ("cudnn", pa.string()),
        ("driver", pa.string()),
    ]
)
"""The columns every row has, in this order. Every other column but :data:`TRACE` and
:data:`VARIANTS` is a metric, sorted by its id: a number (float64), or the features of a set metric
(a list of float32, empty where there are none). ``truth`` hashes the pixels that the row was
measured on, ``code`` the source of its solver, ``version`` is that of this product; in shards that
were written before version 0.2.0 they are null. ``nfe_fit`` is the part of ``nfe`` that was spent
on the fit. ``task_version`` has the versions of image set, mask and operator, ``study_version``
name and version of the study (:mod:`bench.config.task_versions`). ``cudnn`` and ``driver`` are
versions where a GPU computed the row, else null. These five are null in shards that were written
before they existed."""


TRACE = "trace"
"""The column of :mod:`bench.store.trace`, in shards that were written with ``trace=true`` and have
something to tell."""


VARIANTS = "variants"
"""The column of :mod:`bench.store.variants`, in shards with a metric that recognises what draws
show."""


BULKY = ("png", TRACE, VARIANTS)
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


def every_column(column: str) -> bool:
    """Want every column."""
    return True


def wanted_columns(columns: Sequence[str] | None, but: Collection[str]) -> Wanted:
    """Return which columns are read: ``columns`` and the key, or all but the columns ``but``."""
    names = {*KEY, *(columns or ())}
    return (lambda name: name not in but) if columns is None else (lambda name: name in names)


def complete(frame: pd.DataFrame, columns: Sequence[str] | None, where: Path) -> pd.DataFrame:
    """Return the key and the columns asked for, in their order.

    Raises
    ------
    ValueError
        If no row has one of the columns.
    """
    missing = sorted({*(columns or ())} - {*frame.columns})
    if missing and len(frame):
        raise ValueError(f"no row in {where} has the column {', '.join(missing)}")
    return frame.reindex(
        columns=column_order(frame.columns if columns is None else [*KEY, *columns])
    )


def column_order(names: Iterable[str]) -> list[str]:
    """Return fixed columns in their order, then the others sorted."""
    given = {*names}
    return [name for name in FIXED.names if name in given] + sorted(given - {*FIXED.names})


def empty_table(wanted: Wanted) -> pa.Table:
    """Return a table without rows that has the wanted fixed columns."""
    fields = [field for field in FIXED if wanted(field.name)]
    return pa.schema(fields).empty_table()


def rows_table(chunk: str, rows: Sequence[Row]) -> pa.Table:
    """Return the rows of a chunk as a table of fixed columns and metrics.

    Raises
    ------
    ValueError
        If there are no rows, if a row lacks its key or status, or if two rows have the same key.
    """
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
        [
            *FIXED,
            *(pa.field(name, column_type([row.get(name) for row in rows])) for name in metrics),
        ]
    )
    table = pa.Table.from_arrays(
        [pa.array([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema
    )
    return table


def column_type(values: Sequence[object]) -> pa.DataType:
    """Return the type that the values of a metric, a trace or variants are stored as."""
    if any(isinstance(value, bytes) for value in values):
        return pa.binary()
    return FEATURES if any(isinstance(value, list) for value in values) else pa.float64()
