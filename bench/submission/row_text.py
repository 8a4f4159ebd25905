"""Rows as CSV: one line per row, exact numbers, no pictures.

A number is written with the fewest digits that give the same float64 (float32 in features), so
reading gives back the bits. An empty field is no value. Only this spelling is read, so that two
files with the same rows have the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.store.schema import BULKY, FIXED, KEY, Row
from posterior_bench.bench.submission.members import Refusal

COLUMNS = [name for name in FIXED.names if name not in BULKY]
"""The columns that every file of rows has, in this order; metrics follow, sorted."""

MOST_ROWS = 1_000_000

_ALWAYS_TEXT = ("message",)
"""Columns in which an empty field is a text without characters."""


def rows_text(rows: pd.DataFrame) -> bytes:
    """Return rows as CSV.

    Parameters
    ----------
    rows : DataFrame
        Rows as :meth:`bench.store.row_store.RowStore.read` returns them.
    """
    metrics = sorted(name for name in rows.columns if name not in (*FIXED.names, *BULKY))
    names = [*COLUMNS, *metrics]
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    writers = [_writer(name) for name in names]
    for values in rows.reindex(columns=names).itertuples(index=False):
        writer.writerow([write(value) for write, value in zip(writers, values, strict=True)])
    return sink.getvalue().encode()


def _writer(name: str) -> Callable[[Any], str]:
    kind = str(FIXED.field(name).type) if name in FIXED.names else ""
    return {"string": _text, "int64": _whole}.get(kind, _number)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: float | None) -> str:
    return "" if value is None or value != value else str(int(value))


def _number(value: object) -> str:
    if isinstance(value, list | np.ndarray):
        return f"[{' '.join(_digits(np.float32(part)) for part in value)}]"
    number = float("nan" if value is None else value)  # type: ignore[arg-type]
    return "" if math.isnan(number) else _digits(number)


def _digits(value: float | np.float32) -> str:
    """Return the shortest digits of a float64, or of a float32 in features."""
    return str(value) if isinstance(value, np.float32) else repr(value)


def read_rows(data: bytes, name: str) -> list[Row]:
    """Return the rows of a file.

    Raises
    ------
    Refusal
        If it is no CSV of rows, or a value has another spelling than :func:`rows_text` gives it.
    """
    try:
        lines = [*csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refusal(f"{name} is no CSV ({error})") from None
    head, *body = lines or [[]]
    metrics = head[len(COLUMNS) :]
    if head[: len(COLUMNS)] != COLUMNS or metrics != sorted({*metrics} - {*FIXED.names, *BULKY}):
        raise Refusal(f"{name} has other columns than a file of rows")
    if not body or len(body) > MOST_ROWS:
        raise Refusal(f"{name} has {len(body)} rows; 1 to {MOST_ROWS} are possible")
    readers = [_reader(column, name) for column in head]
    return [_row(head, readers, line, name) for line in body]


def _row(
    head: Sequence[str], readers: Sequence[Callable[[str], object]], line: Sequence[str], name: str
) -> Row:
    if len(line) != len(head):
        raise Refusal(f"{name} has a line with {len(line)} fields in place of {len(head)}")
    row = {column: read(text) for column, read, text in zip(head, readers, line, strict=True)}
    if any(row[key] is None for key in (*KEY, "status")):
        raise Refusal(f"{name} has a row without {', '.join(KEY)} or status")
    return row


def _reader(column: str, name: str) -> Callable[[str], object]:
    kind = str(FIXED.field(column).type) if column in FIXED.names else ""
    convert: Callable[[str], object] = {"string": str, "int64": int}.get(kind, _read_number)
    write = _writer(column)

    def read(text: str) -> object:
        if not text:
            return "" if column in _ALWAYS_TEXT else None
        try:
            value = convert(text)
        except (ValueError, OverflowError):
            value = None
        if value is None or write(value) != text or not text.isprintable():
            raise Refusal(f"{name} has {json.dumps(text[:60])} in the column {column}")
        return value

    return read


def _read_number(text: str) -> object:
    if text.startswith("["):
        return [float(np.float32(part)) for part in text[1:-1].split()]
    return float(text)
