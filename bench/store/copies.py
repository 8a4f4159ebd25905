"""Find rows that are stored twice, and check that the two copies agree."""

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
    """Return the table with features as text, so that rows can be compared."""
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            text = [None if value is None else repr(value) for value in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(text, pa.string()))
    return table


def key_columns(table: pa.Table) -> list[NDArray[np.int64]]:
    """Return the columns of :data:`KEY` as numbers that sort as the columns do."""
    return [_ranked(table[name].combine_chunks()) for name in KEY[:2]] + [table["draw"].to_numpy()]


def _ranked(texts: pa.StringArray) -> NDArray[np.int64]:
    """Return the place of every text in the sorted list of different texts."""
    encoded = texts.dictionary_encode()
    place = np.empty(len(encoded.dictionary), dtype=np.int64)
    place[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(place))
    return place[encoded.indices.to_numpy()]


def increasing(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return for each row whether its key is larger than that of the row before; the first is."""
    larger = np.zeros(max(len(keys[0]) - 1, 0), dtype=bool)
    for key in keys[::-1]:
        larger = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & larger)
    return np.concatenate([np.ones(min(len(keys[0]), 1), dtype=bool), larger])


def files_with_copies(frame: pd.DataFrame, shards: Mapping[Path, pa.Table]) -> list[Path]:
    """Return the files with a row that another file has too.

    Parameters
    ----------
    frame : DataFrame
        The rows of ``shards``, one file after the other.
    shards : mapping of Path to Table
        The tables of the files.
    """
    shard_of_row = np.repeat(np.arange(len(shards)), [table.num_rows for table in shards.values()])
    paths = list(shards)
    return [paths[i] for i in np.unique(shard_of_row[frame.duplicated(KEY, keep=False)])]
