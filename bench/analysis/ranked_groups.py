"""Which cells are compared with each other, and their rank letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.cell_records import Card
from posterior_bench.bench.analysis.families import Family, families
from posterior_bench.bench.analysis.letters import ranks
from posterior_bench.bench.analysis.statistics import FEWEST, Array


@dataclass(frozen=True)
class RankedGroup:
    """The cells of a table that are compared by a metric.

    Parameters
    ----------
    metric : str
        Id of the metric.
    cells : sequence of str
        The cells, in the order of the solvers in ``family``.
    family : Family
        The tests of all pairs.
    """

    metric: str
    cells: Sequence[str]
    family: Family


def ranked_groups(
    lines: pd.DataFrame, images: pd.DataFrame, metrics: Iterable[str]
) -> list[RankedGroup]:
    """Return which cells are compared by which of ``metrics``, with the tests of all pairs.

    Cells are compared if they agree in :data:`bench.analysis.tables.RANKED` and in their image ids,
    and have all rows, all ok and computed with the same code and build
    (:mod:`bench.analysis.provenance`). By a metric, those with a finite value of the same images
    are compared. Rank letters and ``bench compare`` both take their verdicts from here. With fewer
    than :data:`FEWEST` images there are none.
    """
    means = {cell: part.droplevel("cell") for cell, part in images.groupby(level="cell")}
    sound = (lines["failed"] == 0) & (lines["missing"] == 0) & (lines["mixed"] == "")
    complete = lines[sound & lines["cell"].isin([*means])]
    found: list[RankedGroup] = []
    for _, group in complete.groupby(tables.RANKED, sort=False):
        names = group["cell"].to_numpy()
        names = names[_usual([tuple(means[cell].index.to_numpy()) for cell in names])]
        by_size: dict[int, list[tuple[str, list[str], Array]]] = {}
        for m in metrics:
            values = np.stack([means[cell][m].to_numpy(float) for cell in names])
            chosen, there = _comparable(values)
            if len(chosen) > 1 and there.sum() >= FEWEST:
                table = (m, names[chosen].tolist(), values[chosen][:, there])
                by_size.setdefault(int(there.sum()), []).append(table)
        for parts in by_size.values():
            tested = families([values for _, _, values in parts], str(group["content"].iloc[0]))
            found += [
                RankedGroup(m, cells, family)
                for (m, cells, _), family in zip(parts, tested, strict=True)
            ]
    return found


def _comparable(values: Array) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the rows of ``values`` ``(cells, images)`` to compare, and the images that all have.

    A cell is left out if its values cover other images than those of most cells, or if one is
    infinite.
    """
    covered = ~np.isnan(values)
    rows = np.flatnonzero(covered.any(axis=1) & ~np.isinf(values).any(axis=1))
    rows = rows[_usual([covered[row].tobytes() for row in rows])]
    return rows, np.asarray(covered[rows].all(axis=0))


def rank_letters(
    frame: pd.DataFrame, images: pd.DataFrame, metrics: Mapping[str, Card]
) -> pd.DataFrame:
    """Return columns ``m_rank`` of the ``metrics`` that have letters.

    Empty text for other cells.
    """
    named = pd.DataFrame(
        "", index=frame.index, columns=[f"{m}_rank" for m in metrics], dtype=object
    )
    place = dict(zip(frame["cell"], frame.index, strict=True))
    for table in ranked_groups(
        frame, images, [m for m, card in metrics.items() if card["direction"] != "none"]
    ):
        where = [place[cell] for cell in table.cells]
        named.loc[where, f"{table.metric}_rank"] = ranks(
            table.family, metrics[table.metric]["direction"]
        )
    return named[[name for name in named if (named[name] != "").any()]]


def _usual(keys: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Return which of ``keys`` equal the most frequent one."""
    most = [key for key, _ in Counter(keys).most_common(1)]
    return np.array([key in most for key in keys], dtype=bool)
