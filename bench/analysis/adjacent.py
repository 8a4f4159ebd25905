"""Neighbours in a ranking: told apart, equal within a margin, or undecided.

A table of solvers says something where neighbours in its order are told apart, or where they are
shown to be equal within a margin that a reader takes for nothing. Both tests are those of the
rank letters (:mod:`bench.analysis.families`), over all pairs of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.analysis.families import Family, family
from posterior_bench.bench.analysis.matches import chosen_lines, metric_card
from posterior_bench.bench.analysis.paired import ratio
from posterior_bench.bench.analysis.ranked_groups import RankedGroup, ranked_groups
from posterior_bench.bench.analysis.statistics import FEWEST
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.core.errors import UserError

RESOLVED, EQUAL, UNDECIDED = "resolved", "equal", "undecided"
"""The verdicts of a pair. A pair that is told apart is resolved, however small its difference."""

HEADING = ("data", "mask", "operator", "prior", "seed", "draws")
"""What the solvers of a table share."""

COLUMNS = (
    *("better", "worse", "difference", "lo", "hi", "p", "equal_lo", "equal_hi"),
    *("effect_size", "images", "within", "verdict"),
)


def verdict(tested: Family, i: int, j: int, margin: float | None) -> str:
    """Return the verdict of the solvers ``i`` and ``j``; without a margin none are equal."""
    if tested.differ[i, j]:
        return RESOLVED
    return EQUAL if margin is not None and tested.equal(i, j, margin) else UNDECIDED


def adjacent_of_family(
    tested: Family, names: Sequence[str], direction: str, margin: float | None = None
) -> pd.DataFrame:
    """Return a line for every two neighbours of a table, the best pair first.

    Parameters
    ----------
    tested : Family
        The tests of all pairs.
    names : sequence of str
        The solvers, in the order of ``tested``.
    direction : str
        ``up`` if a higher value is better, else ``down``.
    margin : float, optional
        The largest difference that counts as none, in units of the metric.

    Returns
    -------
    DataFrame
        :data:`COLUMNS`. ``difference`` is better minus worse; ``lo`` and ``hi`` are its
        simultaneous 95 % interval, ``equal_lo`` and ``equal_hi`` the 90 % one, ``p`` is adjusted,
        ``effect_size`` is Cohen's d_z, ``within`` says whether the 90 % interval lies within the
        margin, and ``verdict`` is :data:`RESOLVED`, :data:`EQUAL` or :data:`UNDECIDED`.
    """
    means = tested.values.mean(axis=1)
    order = np.argsort(-means if direction == "up" else means, kind="stable").tolist()
    lines = []
    for i, j in pairwise(order):
        d = tested.values[i] - tested.values[j]
        lines.append(
            [
                *(names[i], names[j], d.mean(), *tested.interval(i, j), tested.p[i, j]),
                *tested.equal_interval(i, j),
                *(float(ratio(d.mean(), d.std(ddof=1))), len(d)),
                *(margin is not None and tested.equal(i, j, margin), verdict(tested, i, j, margin)),
            ]
        )
    return pd.DataFrame(lines, columns=[*COLUMNS])


def adjacent(
    values: pd.DataFrame, direction: str, margin: float | None = None, key: str = ""
) -> pd.DataFrame:
    """Return a line for every two neighbours of one table; see :func:`adjacent_of_family`.

    Parameters
    ----------
    values : DataFrame
        A finite value for every image (line) and solver (column), draws averaged.
    direction, margin
        As in :func:`adjacent_of_family`.
    key : str, default ""
        Seeds the signs where they are random.

    Raises
    ------
    ValueError
        For fewer than 6 images, or a value that is not finite.
    """
    table = values.to_numpy(float).T
    if not np.isfinite(table).all():
        raise ValueError("a value is missing or infinite; leave out that solver or image")
    return adjacent_of_family(family(table, key), [*map(str, values.columns)], direction, margin)


@dataclass(frozen=True)
class Ranking:
    """The ranked tables of a study.

    Parameters
    ----------
    direction : str
        ``up`` or ``down``: the better direction of the metric.
    lines : DataFrame
        A line per cell, by its name.
    groups : sequence of RankedGroup
        The tables, each with the tests of all its pairs.
    """

    direction: str
    lines: pd.DataFrame
    groups: Sequence[RankedGroup]


def ranking(
    study: Path | str, metric: str, choose: Callable[[pd.DataFrame], pd.DataFrame]
) -> Ranking:
    """Return the ranked tables of the cells of a study that ``choose`` leaves.

    Raises
    ------
    UserError
        If there is no such study or metric, or if nothing is ranked.
    """
    try:
        card = metric_card(read_cells(study), metric)
    except ValueError as error:
        raise UserError(str(error)) from None
    if card["direction"] == "none":
        raise UserError(f"'{metric}' has no better direction, so no table is in its order")
    found = summarise_study(study)
    lines = choose(found.lines)
    groups = ranked_groups(lines, found.images.reindex(columns=[metric]), [metric])
    if not groups and (most := lines["images"].astype(int).max()) < FEWEST:
        raise UserError(
            f"{study} has {most} images a cell: fewer than {FEWEST} say nothing about a difference"
        )
    if not groups:
        raise UserError(
            f"nothing in {study} is ranked by {metric}: that takes two solvers with the same "
            f"{FEWEST} images or more, and no row that failed, is missing or infinite"
        )
    return Ranking(card["direction"], lines.set_index("cell"), groups)


def adjacent_in_study(
    study: Path | str,
    metric: str,
    margin: float | None = None,
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return a line for every two neighbours in every table of a study.

    Parameters
    ----------
    study : Path or str
        The study folder.
    metric : str
        A metric with a value per image and a better direction.
    margin : float, optional
        The largest difference that counts as none, in units of the metric.
    where : mapping of str to str, optional
        Columns of the leaderboard and the values that cells must have there.

    Returns
    -------
    DataFrame
        :data:`HEADING` of the table, then :data:`COLUMNS`.

    Raises
    ------
    UserError
        If there is no such study, metric or value, or if nothing is ranked.
    """
    demand_margin(margin)
    found = ranking(study, metric, lambda lines: chosen_lines(lines, where or {}))
    parts = []
    for group in found.groups:
        names = [str(found.lines.at[cell, "label"]) for cell in group.cells]
        part = adjacent_of_family(group.family, names, found.direction, margin)
        parts.append(with_heading(part, found, group))
    return pd.concat(parts, ignore_index=True)


def with_heading(part: pd.DataFrame, found: Ranking, group: RankedGroup) -> pd.DataFrame:
    """Return the lines of a table with :data:`HEADING` in front."""
    shared = found.lines.loc[group.cells[0], [*HEADING]].to_dict()
    return part.assign(**shared)[[*HEADING, *part.columns]]


def demand_margin(margin: float | None) -> None:
    """Raise UserError for a margin that is no positive number."""
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(
            f"margin={margin}: give the largest difference that counts as none, above 0"
        )


def adjacent_sentence(pairs: pd.DataFrame, metric: str, margin: float | None = None) -> str:
    """Return in one sentence how many neighbours are resolved, equal and undecided."""
    count = pairs["verdict"].value_counts()
    resolved, equal, undecided = (int(count.get(k, 0)) for k in (RESOLVED, EQUAL, UNDECIDED))
    within = "" if margin is None else f"{equal} equal within {margin:g}, "
    return (
        f"Of {len(pairs)} adjacent pairs by {metric}, {resolved} are resolved, {within}"
        f"{undecided} undecided."
    )


def lineups(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the heading and the lines of every table."""
    for (data, mask, operator, prior, seed, _), part in pairs.groupby([*HEADING], sort=False):
        yield f"{data} · {mask} · {operator} · prior {prior} · seed {seed}", part


def adjacent_table(pairs: pd.DataFrame, margin: float | None = None) -> Iterator[tuple[str, Table]]:
    """Yield for every table its heading, and its neighbours for a terminal."""
    words = {RESOLVED: RESOLVED, UNDECIDED: UNDECIDED, EQUAL: f"equal within {margin}"}
    for title, part in lineups(pairs):
        table = Table("better", "worse", box=None, pad_edge=False)
        for name in ("difference", "95 % interval", "p"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for _, line in part.iterrows():
            interval = f"[{line['lo']:+.3g}, {line['hi']:+.3g}]"
            numbers = (f"{line['difference']:+.3g}", interval, f"{line['p']:.2g}")
            said = words[line["verdict"]]
            more = f", by less than {margin:g}" if line["within"] and said == RESOLVED else ""
            table.add_row(line["better"], line["worse"], *numbers, said + more)
        yield title, table
