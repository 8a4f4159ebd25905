"""The overall order of the solvers of a study: mean ranks over the cells that they share.

Cells that are ranked against each other (:data:`bench.analysis.tables.RANKED`) are a *problem*. On
every image of a problem the solvers have ranks, 1 for the best mean over draws; ties share a rank.
An image counts once: its ranks are averaged over the problems that hold it, and then over images.
So the same procedures apply as to any metric of images: bootstrap intervals of the mean
(:mod:`bench.analysis.statistics`), and the sign-flip test of all pairs of solvers together, which
gives the letters (:mod:`bench.analysis.families`). Ranks need no common scale, so problems of any
difficulty, and data sets with other units, can be averaged.

A solver that ran in few problems may have met easier ones. So an order holds solvers that ran in
the same problems, and a study whose solvers ran in different ones has several orders.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.families import family
from posterior_bench.bench.analysis.letters import ranks, share
from posterior_bench.bench.analysis.statistics import FEWEST, means_over_images

COLUMNS = ["solver", "rank", "lo", "hi", "letters", "passes", "seconds"]
"""Columns of :attr:`Overall.table`."""

_PROBLEM = "problem"


@dataclass(frozen=True)
class Overall:
    """Solvers that ran in the same problems, best mean rank first.

    Parameters
    ----------
    metric : str
        Id of the metric that gives the ranks.
    table : DataFrame
        A line per solver with the columns :data:`COLUMNS`: the mean rank and its 95 % interval over
        images, its letters, and passes and seconds per draw, which are means over the problems.
        Fewer than :data:`bench.analysis.statistics.FEWEST` images have no intervals and no letters.
    problems : sequence of tuple
        The problems: their values of the columns :data:`bench.analysis.tables.RANKED`.
    images : int
        How many images every mean is taken over.
    everything : bool
        Whether the solvers ran in all problems of the study.
    """

    metric: str
    table: pd.DataFrame
    problems: Sequence[tuple[Hashable, ...]]
    images: int
    everything: bool


def overall_orders(board: pd.DataFrame, means: pd.DataFrame, metric: str) -> list[Overall]:
    """Return the orders of a study by a metric; none if no two solvers share a problem.

    The first holds all solvers over the problems in which all of them ran. Where that leaves a
    problem out, those that ran in every problem are ordered over all. Where there is no common
    problem, the solvers of each data set are ordered too.

    Parameters
    ----------
    board : DataFrame
        The leaderboard.
    means : DataFrame
        The values of images, draws averaged, by cell and image.
    metric : str
        A metric with a direction and a value per image.
    """
    lines = board[~board["solver"].isin([*not_ordered(board, means, metric)])]
    lines = lines.assign(**{_PROBLEM: [*lines[tables.RANKED].itertuples(index=False, name=None)]})
    direction = board.attrs["metrics"][metric]["direction"]
    found = []
    for part in _selections(lines):
        ranked = _image_ranks(part, means[metric], direction)
        if len(ranked):
            everything = part[_PROBLEM].nunique() == lines[_PROBLEM].nunique()
            problems = list(dict.fromkeys(part[_PROBLEM]))
            table = _table(ranked, part, metric)
            found.append(Overall(metric, table, problems, len(ranked), everything))
    return found


def not_ordered(board: pd.DataFrame, means: pd.DataFrame, metric: str) -> dict[str, str]:
    """Return why solvers have no place in an order, by solver.

    Means over the rows that are left would favour a solver that fails on hard images.
    """
    infinite = np.isinf(means[metric]).groupby(level="cell").any()
    reasons: dict[str, str] = {}
    for name, lines in board.groupby("solver", sort=False):
        failed, missing = int(lines["failed"].sum()), int(lines["missing"].sum())
        mixed = "; ".join(dict.fromkeys(text for text in lines["mixed"] if text))
        said = [
            f"{failed} row{'s' * (failed > 1)} failed" if failed else "",
            f"{missing} row{'s are' if missing > 1 else ' is'} missing" if missing else "",
            f"its rows were computed with different things ({mixed})" if mixed else "",
        ]
        if not any(said) and infinite.reindex(lines["cell"], fill_value=False).any():
            said = ["an image has an infinite value"]
        if not any(said) and lines[metric].isna().any():
            said = ["a cell has no value"]
        if any(said):
            reasons[str(name)] = ", ".join(filter(None, said))
    return reasons


def _selections(lines: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield lines whose solvers all ran in the same problems."""
    runs = {name: {*part[_PROBLEM]} for name, part in lines.groupby("solver", sort=False)}
    if len(runs) < 2:
        return
    every, common = {*lines[_PROBLEM]}, set.intersection(*runs.values())
    whole = [name for name, problems in runs.items() if problems == every]
    if common:
        yield lines[lines[_PROBLEM].isin(common)]
    if common != every and len(whole) > 1:
        yield lines[lines["solver"].isin(whole)]
    if not common and lines["data"].nunique() > 1:
        for _, part in lines.groupby("data", sort=False):
            yield from _selections(part)


def _image_ranks(lines: pd.DataFrame, values: pd.Series, direction: str) -> pd.DataFrame:
    """Return the mean rank of every solver on every image ``(images, solvers)``.

    Images without a value of one solver are left out of that problem for all.
    """
    parts = []
    for problem, part in lines.groupby(_PROBLEM, sort=False):
        columns = {
            name: values.loc[cell]
            for name, cell in part[["solver", "cell"]].itertuples(index=False)
        }
        ranked = pd.DataFrame(columns).dropna().rank(axis=1, ascending=direction == "down")
        parts.append(pd.concat({problem[0]: ranked}, names=["data"]))
    return pd.concat(parts).groupby(level=["data", "image_id"]).mean()


def _table(ranked: pd.DataFrame, lines: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the table of an order, best first, from mean ranks ``(images, solvers)``."""
    values = ranked.to_numpy(float)
    over = means_over_images([*values.T], f"overall {metric}")
    costs = lines.assign(seconds=lines["seconds_fit"] + lines["seconds_sample"])
    costs = costs.groupby("solver")[["passes", "seconds"]].mean().loc[[*ranked.columns]]
    known = len(values) >= FEWEST
    table = pd.DataFrame(
        {
            "solver": [*ranked.columns],
            "rank": over.mean,
            "lo": over.lo,
            "hi": over.hi,
            "letters": ranks(family(values.T, f"overall {metric}"), "down") if known else "",
            "passes": costs["passes"].to_numpy(float),
            "seconds": costs["seconds"].to_numpy(float),
        }
    )
    return table.sort_values(["rank", "solver"], ignore_index=True)[COLUMNS]


def leaders(order: Overall) -> Mapping[str, float]:
    """Return the mean ranks of the solvers that cannot be told apart from the best, best first.

    Without letters this is the best alone.
    """
    table = order.table
    best = table["letters"].iloc[0]
    alike = [i == 0 or bool(best and share(best, name)) for i, name in enumerate(table["letters"])]
    return dict(zip(table.loc[alike, "solver"], table.loc[alike, "rank"], strict=True))
