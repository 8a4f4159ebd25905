"""Read the rows of every cell of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import BULKY, complete, empty_table, wanted_columns


def read_study(study: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of every cell of a study, sorted by cell, image id and draw; see
    :meth:`RowStore.read`.

    ``columns``: None = all but :data:`BULKY`. A metric that a cell was not scored by is NaN there.
    """
    folders = sorted(path.parent for path in Path(study).glob("cells/*/rows"))
    frames = [RowStore(folder)._rows(columns) for folder in folders]
    full = [frame for frame in frames if len(frame)]
    empty = empty_table(wanted_columns(columns, BULKY)).to_pandas()
    return complete(pd.concat(full, ignore_index=True) if full else empty, columns, Path(study))
