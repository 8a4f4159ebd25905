"""The leaderboard in a report."""

from __future__ import annotations

import math
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


# tables and figures
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
    lines = [
        {
            "solver": line["solver"],
            "cell": line["cell"],
            "scene": int(scene[i]),
            "where": [str(line[name]) for name in varying],
            "scores": [_score(line, m, marks[m][i]) for m in order],
            "costs": [(tables.significant(v), sortable(v)) for v in _costs(line)],
            "failed": int(line["failed"]),
            "missing": int(line["missing"]),
        }
        for i, line in board.iterrows()
    ]
    columns = [
        {
            "id": m,
            "title": tables.metric_title(cards[m]),
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
        "lines": lines,
        "missing": missing,
        "hidden": len(order) > len(heads),
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


def _score(line: pd.Series, metric: str, mark: str) -> dict[str, object]:
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
