"""Read the rows of every cell of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import BULKY, complete, empty_table, wanted_columns


def read_study(study: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the rows of every cell of a study, sorted by cell, image id and draw.

    Parameters
    ----------
    study : Path or str
        The study folder.
    columns : sequence of str, optional
        Columns to read besides the key; None = all but :data:`BULKY`. A metric that a cell was not
        scored by is NaN there.

    Raises
    ------
    ValueError
        If no row has one of the columns.
    DifferentCopies
        If two copies of a row differ; see :meth:`RowStore.read`.
    WrongCell
        If a file lies in the folder of another cell.
    """
    folders = sorted(path.parent for path in Path(study).glob("cells/*/rows"))
    frames = [RowStore(folder)._rows(columns) for folder in folders]
    full = [frame for frame in frames if len(frame)]
    empty = empty_table(wanted_columns(columns, BULKY)).to_pandas()
    return complete(pd.concat(full, ignore_index=True) if full else empty, columns, Path(study))
