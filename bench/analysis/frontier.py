"""What a budget of network passes buys: the quality of every solver against its cost.

Cells that are ranked against each other (:data:`bench.analysis.tables.RANKED`) are a *problem*. A
cell with ``budget=`` is a point on the curve of its solver; a cell without one is a point alone,
which competes at every budget that pays for it. Whoever has the best mean at a budget is on its
front, and so is everybody who cannot be told apart from it. That verdict is the house's: the
sign-flip test of all pairs of the budget together (:mod:`bench.analysis.families`). With fewer than
:data:`bench.analysis.statistics.FEWEST` images there is no verdict, and the best mean stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.cell_records import CellRecord, card_version
from posterior_bench.bench.analysis.families import Family
from posterior_bench.bench.analysis.matches import metric_card
from posterior_bench.bench.analysis.ranked_groups import ranked_groups
from posterior_bench.bench.analysis.scores import image_scores
from posterior_bench.bench.analysis.study_summary import StudySummary, summarise_study
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.study_files import study_settings

POINTS = [
    *("problem", "data", "mask", "operator", "prior", "seed", "images", "draws", "solver"),
    *("budget", "passes", "metric", "value", "lo", "hi", "n", "failed", "missing"),
    *("ranked", "front", "cell"),
]
"""Columns of ``frontier.csv``."""

BEST = [
    *("problem", "budget", "place", "solver", "passes", "metric", "value", "lo", "hi"),
    *("difference", "difference_lo", "difference_hi", "p", "solvers"),
]
"""Columns of ``best_at_budget.csv``."""

UNITS = ("nfe", "passes")
"""The units of budgets, which are columns of costs too."""


@dataclass(frozen=True)
class Frontier:
    """The curves of some studies, and who is best at which budget.

    Parameters
    ----------
    metric : str
        Id of the metric.
    card : mapping of str to str
        Its title, direction and unit.
    points : DataFrame
        A line per cell, with the columns :data:`POINTS`. ``budget`` is empty for a cell without
        one. ``ranked`` says whether the cell was compared at some budget, ``front`` whether it was
        on a front.
    best : DataFrame
        A line per budget and solver of its front, best first, with the columns :data:`BEST`.
        ``difference`` is the solver minus the best, with its simultaneous 95 % interval and its
        adjusted p value; ``solvers`` says how many were compared.
    """

    metric: str
    card: Mapping[str, str]
    points: pd.DataFrame
    best: pd.DataFrame


def frontier(studies: Sequence[Path], metric: str | None = None) -> Frontier:
    """Return what the rows of some studies say of a metric at every budget.

    Parameters
    ----------
    studies : sequence of Path
        Folders of studies. A cell that lies in several of them counts once; a cell that was not
        scored by the metric does not count.
    metric : str, optional
        A metric that has a value per image; None = the one that the figure of the first study
        shows.

    Raises
    ------
    UserError
        If no cell has the metric or a budget, or cells have the metric of several versions.
    ValueError
        If a folder has no cells.
    """
    found = [summarise_study(study) for study in studies]
    cells = {cell.name: cell for study in found for cell in study.cells}
    metric = metric or _shown(studies[0])
    card = metric_card([*cells.values()], metric)
    if card["direction"] == "none":
        raise UserError(f"neither direction of '{metric}' is better, so nobody can be best")
    _demand_one_definition(cells.values(), metric)
    images = pd.concat([study.images.reindex(columns=[metric]) for study in found])
    images = images[~images.index.duplicated()]
    lines = _lines(found, cells, images, metric)
    if not lines["budget"].any():
        names = ", ".join(map(str, studies))
        raise UserError(f"no cell of {names} has a budget; run solvers with budget=passes:N first")
    contests = [
        _contest(problem[_competing(problem, budget)], budget, images, card["direction"])
        for _, problem in lines.groupby("problem", sort=False)
        for budget in budgets_of(problem)
    ]
    ranked = {cell for contest in contests for cell in contest.ranked}
    best = pd.DataFrame([line for contest in contests for line in contest.best], columns=BEST)
    front = {cell for contest in contests for cell in contest.front}
    lines = lines.assign(ranked=lines["cell"].isin(ranked), front=lines["cell"].isin(front))
    return Frontier(metric, card, lines[POINTS].reset_index(drop=True), best)


def amount(budget: str) -> int:
    """Return the number of a budget; 0 if there is none."""
    return Budget.of(budget).amount if budget else 0


def budgets_of(points: pd.DataFrame) -> list[str]:
    """Return the different budgets of some lines, the smallest first."""
    budgets = {*points["budget"]} - {""}
    return sorted(budgets, key=lambda text: (text.partition(":")[0], amount(text)))


# -- the points ------------------------------------------------------------------------------------


def _shown(study: Path) -> str:
    """Return the metric that the figure of a study shows."""
    figure = study_settings(study).get("study", {}).get("figure") or {}
    if "y" not in figure:
        raise UserError(f"{study} names no metric of its own; give metric=NAME")
    return str(figure["y"])


def _demand_one_definition(cells: Iterable[CellRecord], metric: str) -> None:
    versions = {card_version(cell.metrics[metric]) for cell in cells if metric in cell.metrics}
    if len(versions) > 1:
        raise UserError(
            f"the cells have '{metric}' of several versions "
            f"({', '.join(map(str, sorted(versions)))}); compute it again by `bench score`"
        )


def _lines(
    found: Sequence[StudySummary],
    cells: Mapping[str, CellRecord],
    images: pd.DataFrame,
    metric: str,
) -> pd.DataFrame:
    """Return a line per cell: problem, solver, budget, passes and the mean with its interval."""
    lines = pd.concat(
        [
            study.lines.assign(
                **{unit: [part.costs[unit] for part in study.parts] for unit in UNITS}
            )
            for study in found
        ],
        ignore_index=True,
    ).drop_duplicates("cell")
    scored = [metric in cells[name].metrics for name in lines["cell"]]
    lines = lines[scored].reset_index(drop=True)
    scores = image_scores(images, [cells[name] for name in lines["cell"]], [metric])
    names = [metric, *(f"{metric}{end}" for end in ("_lo", "_hi", "_n"))]
    lines[["value", "lo", "hi", "n"]] = scores[names]
    lines["n"] = lines["n"].astype(int)
    lines = lines.assign(metric=metric, budget=[cells[name].budget for name in lines["cell"]])
    lines["problem"] = _problems(lines)
    lines["solver"] = _names(lines)
    order = lines.assign(amount=lines["budget"].map(amount))
    return lines.loc[order.sort_values(["problem", "solver", "amount"], kind="stable").index]


def _problems(lines: pd.DataFrame) -> pd.Series:
    """Return a name per problem: data, mask and operator, and what else tells it from others."""
    names = lines["data"] + " · " + lines["mask"] + " · " + lines["operator"]
    which = lines.groupby(tables.RANKED, sort=False, dropna=False).ngroup()
    for key in ("prior", "images", "draws", "seed", "task_version", "content", "fingerprint"):
        several = lines.assign(name=names, which=which).groupby("name")["which"]
        shared = several.transform("nunique") > 1
        differs = lines.groupby(names)[key].transform("nunique") > 1
        names = names.where(~(shared & differs), names + f" · {key} " + lines[key].astype(str))
    return names


def _names(lines: pd.DataFrame) -> pd.Series:
    """Return the name of every solver.

    Where a problem has two cells of a solver at one budget, the settings in which they differ
    follow, and if need be the cell. A budget changes settings too, so settings alone name nothing.
    """
    names = lines["solver"].astype(str)
    for _, same in lines.groupby(["problem", "solver", "budget"], sort=False):
        if len(same) > 1:
            names.loc[same.index] += " " + _own_words(same)
    return names.str.strip()


def _own_words(same: pd.DataFrame) -> pd.Series:
    """Return the settings that tell some cells of one solver apart, else the cells."""
    words = same["variant"].str.split()
    common = {*words.iloc[0]}.intersection(*words)
    own = words.map(lambda given: " ".join(word for word in given if word not in common))
    return own.where(~own.duplicated(keep=False), "[" + same["cell"].str[:8] + "]")


# -- who is best -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contest:
    """The cells that were ranked at a budget, those on its front, and the lines of the front."""

    ranked: Sequence[str]
    front: Sequence[str]
    best: Sequence[Mapping[str, Any]]


def _competing(problem: pd.DataFrame, budget: str) -> pd.Series:
    """Return which cells a budget pays for.

    A cell without passes, such as the exact posterior, is a reference and no competitor.
    """
    cost = problem[budget.partition(":")[0]]
    paid = cost.between(0, amount(budget), inclusive="right")
    return (problem["budget"] == budget) | ((problem["budget"] == "") & paid)


def _contest(lines: pd.DataFrame, budget: str, images: pd.DataFrame, direction: str) -> _Contest:
    """Compare the cells that compete at a budget."""
    metric = str(lines["metric"].iloc[0])
    values = lines.set_index("cell")
    tested = ranked_groups(lines, images, [metric])
    cells = tested[0].cells if tested else _sound(lines)
    if not len(cells):
        return _Contest([], [], [])
    means = values.loc[[*cells], "value"].to_numpy(float)
    order = np.argsort(-means if direction == "up" else means, kind="stable")
    first = int(order[0])
    alike = [
        int(i) for i in order if i == first or (tested and not tested[0].family.differ[i, first])
    ]
    best = []
    for i in alike:
        line = values.loc[cells[i], ["problem", "solver", "passes", "metric", "value", "lo", "hi"]]
        place = {"budget": budget, "place": "best" if i == first else "alike"}
        apart = _difference(tested[0].family, i, first) if tested else {}
        best.append({**line, **place, **apart, "solvers": len(cells)})
    return _Contest([*cells], [cells[i] for i in alike], best)


def _sound(lines: pd.DataFrame) -> list[str]:
    """Return the cells with all rows, where nothing can be tested."""
    sound = (lines["failed"] == 0) & (lines["missing"] == 0) & (lines["mixed"] == "")
    return [*lines.loc[sound & np.isfinite(lines["value"]), "cell"]]


def _difference(family: Family, i: int, best: int) -> dict[str, float]:
    """Return the mean of ``i`` minus that of the best, with interval and p value."""
    lo, hi = family.interval(i, best) if i != best else (0.0, 0.0)
    mean = float((family.values[i] - family.values[best]).mean())
    return {"difference": mean, "difference_lo": lo, "difference_hi": hi, "p": family.p[i, best]}
