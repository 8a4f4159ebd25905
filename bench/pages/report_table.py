"""The leaderboard in a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.pages.report_data import ReportData

COSTS = {
    "passes": "forward + backward passes of the network per draw",
    "forward": "forward passes of the network per draw (NFE)",
    "backward": "backward passes of the network per draw",
    "decodings": "of the autoencoder, per draw; no passes",
    "s / draw": "seconds per draw, a fit shared by its draws",
    "peak MiB": "largest memory of any row",
}
"""Headings of what a draw costs, and what they mean."""


ASIDE = ("forward", "backward", "decodings", "peak MiB")
"""Costs that the page shows with all columns alone."""

HEADINGS = {
    "solver": "the method, with the settings that tell its cells apart; † = rows failed or missing",
    "data": "the image set, or the closed-form prior that images are drawn from",
    "mask": "the kind of mask: which pixels are hidden",
    "operator": "how an image is measured, and the noise on it",
    "images": "how many images were measured",
    "seed": "masks, noise and draws depend on it",
    "prior": "the network, or closed form, that all solvers of a table share",
    "draws": "draws of every image",
    "failed": "rows without a result: they are in no mean and count as no zero",
    "missing": "planned rows that are not stored",
}
"""Headings of other columns, and what they mean."""

_BETTER = {
    "up": "Higher is better.",
    "down": "Lower is better.",
    "none": "Neither end is better: compare it with its right value.",
}

_REGIONS = {"hole": "hidden pixels alone", "known": "observed pixels alone"}


# tables and figures
def explanations(study: ReportData) -> dict[str, str]:
    """Return what every metric measures, for the heading of its column."""
    full: dict[str, Mapping[str, Any]] = {}
    for cell in study.cells:
        full = {**cell.cards, **full}
    said = {}
    for name, card in study.board.attrs["metrics"].items():
        more = full.get(name, {})
        parts = [
            f"{card['title']} (column {name}).",
            _BETTER[card["direction"]],
            f"Of {_REGIONS[more['region']]}." if more.get("region") in _REGIONS else "",
            "Observed pixels are put back first." if more.get("pasted") else "",
            f"Values: {str(more['range']).rstrip('.')}." if more.get("range") else "",
            f"Network: {more['backbone']}." if more.get("backbone") else "",
            "One value from all images."
            if more.get("level") == "set"
            else "Mean over images, draws averaged first; below it the 95 % interval over images.",
        ]
        said[name] = " ".join(filter(None, parts))
    return said


def leaderboard_table(study: ReportData) -> dict[str, Any]:
    """Return the leaderboard's columns, and lines of texts with the values they are sorted by."""
    board, cards = study.board, study.board.attrs["metrics"]
    heads = tables.headlines(cards)
    order = [*heads, *(m for m in cards if m not in heads)]
    varying = [
        name
        for name in ("data", "mask", "operator", "images", "seed", "prior", "draws")
        if _varies(board, name)
    ]
    scene = board.groupby(tables.GROUP, sort=False).ngroup()
    marks = {m: _marks(board, m, cards[m]["direction"]) for m in order}
    said = explanations(study)
    lines = [
        {
            "solver": line["solver"],
            "cell": line["cell"],
            "scene": int(scene[i]),
            "where": [str(line[name]) for name in varying],
            "scores": [score(line, m, marks[m][i]) for m in order],
            "costs": [
                (tables.significant(v), sortable(v), name)
                for name, v in zip(COSTS, _costs(line), strict=True)
            ],
            "failed": int(line["failed"]),
            "missing": int(line["missing"]),
        }
        for i, line in board.iterrows()
    ]
    columns = [
        {
            "id": m,
            "title": tables.metric_title(cards[m]),
            "words": said[m],
            "more": m not in heads,
            "best": cards[m]["direction"],
        }
        for m in order
    ]
    missing = bool(board["missing"].any())
    return {
        "varying": varying,
        "columns": columns,
        "costs": COSTS,
        "aside": ASIDE,
        "words": HEADINGS,
        "lines": lines,
        "missing": missing,
    }


def _varies(board: pd.DataFrame, name: str) -> bool:
    return int(board[name].nunique()) > 1


def _marks(board: pd.DataFrame, metric: str, direction: str) -> pd.Series:
    """Return ``best``, ``second`` or nothing for every line."""
    parts = [
        tables.ranking(lines, metric, direction)
        for _, lines in board.groupby(tables.GROUP, sort=False)
    ]
    return pd.concat(parts)


def score(line: pd.Series, metric: str, mark: str) -> dict[str, object]:
    """Return what a page shows of a metric of a line.

    Parameters
    ----------
    line : Series
        A line of the leaderboard.
    metric : str
        The metric's column.
    mark : str
        ``best``, ``second`` or nothing (:func:`bench.analysis.tables.ranking`).
    """
    text, ends = tables.value_and_interval(line, metric)
    printed, flag = line.get(f"{metric}_paper", ""), line.get(f"{metric}_paper_flag", "")
    return {
        "text": text,
        "ends": ends,
        "mark": mark,
        "value": sortable(line[metric]),
        "letters": line.get(f"{metric}_rank", ""),
        "paper": f"{printed} ({flag})" if flag else printed,
    }


def _costs(line: pd.Series) -> list[float]:
    """Return passes, forward and backward, decodings, seconds, peak memory."""
    seconds = line["seconds_fit"] + line["seconds_sample"]
    return [
        float(v)
        for v in (
            line["passes"],
            line["nfe"],
            line["nge"],
            line["decode"],
            seconds,
            line["peak_mib"],
        )
    ]


def sortable(value: float) -> str:
    """Return a number as JavaScript reads it; empty for NaN."""
    return (
        ""
        if math.isnan(value)
        else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, repr(float(value)))
    )
