"""The answer at the top of a report: the overall order of the solvers, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import figures, tables
from posterior_bench.bench.analysis.cost_figure import Axis, cost_figure
from posterior_bench.bench.analysis.overall import Overall, leaders, not_ordered, overall_orders
from posterior_bench.bench.analysis.statistics import FEWEST
from posterior_bench.bench.pages.report_data import ReportData
from posterior_bench.bench.pages.report_plots import svg_uri

METRICS = 4
"""Metrics with an order, at most."""

SHOWN = 4
"""Problems whose means stand beside the ranks, at most."""


def answers(study: ReportData, means: pd.DataFrame, metric: str | None) -> list[dict[str, Any]]:
    """Return the orders by the main metric, then those by others, for the page.

    Parameters
    ----------
    study : ReportData
        The data of the report.
    means : DataFrame
        The values of images by cell and image.
    metric : str, optional
        The main metric; None = there is none, and no order either.
    """
    chosen = [m for m in study.metrics if m != metric][: METRICS - 1]
    found = []
    for name in [metric, *chosen] if metric else []:
        orders = overall_orders(study.board, means, name)
        parts = [_order(study, order, means, drawn=name == metric) for order in orders]
        card = study.board.attrs["metrics"][name]
        found.append({"metric": name, "title": tables.metric_title(card), "orders": parts})
    return [answer for answer in found if answer["orders"]]


def solvers_in_order(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the solvers of all orders by the first metric, best first."""
    orders = found[0]["orders"] if found else []
    return list(dict.fromkeys(line["solver"] for order in orders for line in order["lines"]))


def _order(study: ReportData, order: Overall, means: pd.DataFrame, drawn: bool) -> dict[str, Any]:
    """Return an order as the page shows it."""
    board = study.board
    where = pd.Series(board[tables.RANKED].itertuples(index=False, name=None), index=board.index)
    cells = board[where.isin(order.problems) & board["solver"].isin(order.table["solver"])]
    failed = board.groupby("solver")[["failed", "missing"]].sum().sum(axis=1)
    problems = _problems(order, board)
    values = {
        (line["solver"], names): tables.value_and_interval(line, order.metric)[0]
        for names, (_, line) in zip(where[cells.index], cells.iterrows(), strict=True)
    }
    last = max(float(np.nanmax(order.table[["rank", "hi"]].to_numpy(float))), 2.0)
    lines = [
        {
            "solver": line["solver"],
            "rank": f"{line['rank']:.1f}",
            "ends": f"[{line['lo']:.1f}, {line['hi']:.1f}]" if np.isfinite(line["lo"]) else "",
            "places": [_percent(line[key], last) for key in ("rank", "lo", "hi")],
            "letters": line["letters"],
            "values": [values.get((line["solver"], names), "—") for names in problems],
            "passes": tables.significant(line["passes"]),
            "seconds": tables.significant(line["seconds"]),
            "numbers": [float(line[key]) for key in ("rank", "passes", "seconds")],
        }
        for line in order.table.to_dict("records")
    ]
    left_out = not_ordered(board, means, order.metric)
    return {
        "lines": lines,
        "problems": [*problems.values()],
        "sentence": _sentence(order, study),
        "rule": _rule(order),
        "left_out": left_out,
        "elsewhere": _elsewhere(board, order, left_out),
        "failed": int(failed.sum()),
        "figures": _figures(order) if drawn else [],
    }


def _percent(value: float, last: float) -> float | None:
    """Return the place of a rank on an axis from 1 to ``last``, in percent."""
    return round(100 * (value - 1) / (last - 1), 1) if np.isfinite(value) else None


def _problems(order: Overall, board: pd.DataFrame) -> dict[tuple[Any, ...], str]:
    """Return the problems of an order with their names, if they are few."""
    if len(order.problems) > SHOWN:
        return {}
    frame = pd.DataFrame(order.problems, columns=tables.RANKED)
    named = [c for c in ("data", "mask", "operator", "prior", "seed") if frame[c].nunique() > 1]
    named = named or (["mask"] if board["mask"].any() else ["data"])
    return {
        names: " · ".join(str(text).split(" ")[0] for text in frame.loc[i, named])
        for i, names in enumerate(order.problems)
    }


def _sentence(order: Overall, study: ReportData) -> str:
    """Return the order in words."""
    title = study.board.attrs["metrics"][order.metric]["title"]
    best, *beside = leaders(order)
    first = order.table.iloc[0]
    ends = f" [{first['lo']:.1f}, {first['hi']:.1f}]" if np.isfinite(first["lo"]) else ""
    text = (
        f"By {title}, {best} has the best mean rank of {len(order.table)} solvers: "
        f"{first['rank']:.1f}{ends}."
    )
    if order.images < FEWEST:
        return f"{text} {order.images} images are too few to tell solvers apart."
    if not beside:
        return f"{text} It is told apart from every other."
    if len(beside) == len(order.table) - 1:
        return f"{text} None of the others is told apart from it."
    named = beside if len(beside) <= SHOWN else beside[: SHOWN - 1]
    more = f" and {len(beside) - len(named)} more" if len(named) < len(beside) else ""
    return f"{text} Not told apart from it: {', '.join(named)}{more}."


def _rule(order: Overall) -> str:
    """Return in words what the ranks are means over."""
    count = len(order.problems)
    where = (
        f"the {_counted(count, 'problem')} of this study"
        if order.everything
        else f"the {_counted(count, 'problem')} in which all of these solvers ran"
    )
    tests = (
        "Solvers that share a letter cannot be told apart: a sign-flip test of the ranks, all "
        "pairs together, at 5 %."
        if order.images >= FEWEST
        else f"Fewer than {FEWEST} images have no intervals and no letters."
    )
    return (
        f"Mean rank over {where}, 1 is best. Solvers are ranked on every image; ranks are averaged "
        f"over problems, then over {order.images} images, with 95 % intervals over images. {tests} "
        "Costs are per draw."
    )


def _counted(number: int, noun: str) -> str:
    """Return ``one problem`` or ``3 problems``."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def _elsewhere(board: pd.DataFrame, order: Overall, left_out: Collection[str]) -> str:
    """Return the solvers that ran, but not in these problems."""
    names = [
        str(name)
        for name in dict.fromkeys(board["solver"])
        if name not in {*order.table["solver"]} and name not in left_out
    ]
    return ", ".join(names)


def _figures(order: Overall) -> list[str]:
    """Return the figures of mean rank against passes and against seconds."""
    points = order.table.rename(columns={"rank": "value"})
    quality = Axis("mean rank, 1 is best", "down", linear=True)
    bold = list(points["solver"].head(len(figures.COLOURS)))
    return [
        svg_uri(cost_figure(points.rename(columns={key: "cost"}), title, quality, bold))
        for key, title in ((c, figures.TITLES[c]) for c in figures.COSTS)
        if (points[key] > 0).any()
    ]
