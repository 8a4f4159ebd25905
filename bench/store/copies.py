"""Rows that are stored twice: found by their key, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from posterior_bench.bench.store.schema import KEY


class DifferentCopies(ValueError):
    """Two shards hold the same row with different results."""


def hashable(table: pa.Table) -> pa.Table:
    """The table with features as text, so that rows can be compared."""
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            text = [None if value is None else repr(value) for value in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(text, pa.string()))
    return table


def key_columns(table: pa.Table) -> list[NDArray[np.int64]]:
    """The columns of :data:`KEY` as numbers that sort as they do."""
    return [_ranked(table[name].combine_chunks()) for name in KEY[:2]] + [table["draw"].to_numpy()]


def _ranked(texts: pa.StringArray) -> NDArray[np.int64]:
    """The place of every text among the different ones: a cell has few images beside its rows."""
    encoded = texts.dictionary_encode()
    place = np.empty(len(encoded.dictionary), dtype=np.int64)
    place[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(place))
    return place[encoded.indices.to_numpy()]


def increasing(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Whether a row has a larger key than the one before; the first has."""
    larger = np.zeros(max(len(keys[0]) - 1, 0), dtype=bool)
    for key in keys[::-1]:
        larger = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & larger)
    return np.concatenate([np.ones(min(len(keys[0]), 1), dtype=bool), larger])


def files_with_copies(frame: pd.DataFrame, shards: Mapping[Path, pa.Table]) -> list[Path]:
    """The shards with a row that another shard has too; ``frame`` is their rows one after the
    other.
    """
    shard_of_row = np.repeat(np.arange(len(shards)), [table.num_rows for table in shards.values()])
    paths = list(shards)
    return [paths[i] for i in np.unique(shard_of_row[frame.duplicated(KEY, keep=False)])]
