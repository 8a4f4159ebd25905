"""The tables of the leaderboard of many people: one per task and version, with its history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.pages.report_table import score, sortable

TASK = ["data", "mask", "operator", "images", "seed"]
"""Columns that name a task; it has a table for every version and content."""

COSTS = {"passes": "passes / draw", "seconds": "s / draw", "failed": "failed"}


@dataclass
class Entry:
    """Where a line comes from.

    Parameters
    ----------
    by, date : str
        Who submitted it, and when.
    level, means : str
        How far it was verified, as a word and in words.
    facts : mapping of str to str
        What stands behind it.
    sha256 : str
        Checksum of its bundle.
    reported : list of dict
        Numbers that a paper reports: ``metric printed source``.
    again : list of (str, str, bool)
        Who submitted the same cell later, when, and whether with the same values.
    """

    by: str
    date: str
    level: str
    means: str
    facts: Mapping[str, str]
    sha256: str
    reported: list[dict[str, str]] = field(default_factory=list)
    again: list[tuple[str, str, bool]] = field(default_factory=list)


def task_tables(frame: pd.DataFrame, entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Return every task with its tables, the newest version first.

    Parameters
    ----------
    frame : DataFrame
        The leaderboard of all cells (:func:`bench.analysis.leaderboard.build`).
    entries : mapping of str to Entry
        Where each cell comes from.
    """
    found = []
    for i, (names, lines) in enumerate(frame.groupby(TASK, sort=True)):
        task = dict(zip(TASK, map(str, names), strict=True))
        versions = sorted(
            (_version_table(part, frame.attrs["metrics"], entries) for _, part in _versions(lines)),
            key=lambda table: table["order"],
            reverse=True,
        )
        found.append({"id": f"task-{i}", **task, "versions": versions})
    return found


def _versions(lines: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    yield from lines.groupby(["task_version", "content"], sort=True)


def _version_table(
    lines: pd.DataFrame, metrics: Mapping[str, Mapping[str, str]], entries: Mapping[str, Entry]
) -> dict[str, Any]:
    valued = [m for m in metrics if lines[f"{m}_n"].sum() + lines[f"{m}_inf"].sum() > 0]
    heads = [m for m in tables.headlines(metrics, lines) if m in valued]
    order = [*heads, *(m for m in valued if m not in heads)]
    marks = {m: tables.ranking(lines, m, metrics[m]["direction"]) for m in order}
    version = str(lines["task_version"].iloc[0])
    main = tables.leading(metrics, lines)
    return {
        "version": version,
        "order": ([int(word.partition("=")[2]) for word in version.split()], _last(lines, entries)),
        "columns": [
            {
                "id": m,
                "title": tables.metric_title(metrics[m]),
                "more": m not in heads,
                "best": metrics[m]["direction"],
            }
            for m in order
        ],
        "lines": [_line(i, line, order, marks, entries) for i, line in lines.iterrows()],
        "history": _history(lines, main, metrics, entries) if main else [],
        "main": tables.metric_title(metrics[main]) if main else "",
    }


def _last(lines: pd.DataFrame, entries: Mapping[str, Entry]) -> str:
    return max(entries[cell].date for cell in lines["cell"])


def _line(
    place: Any,
    line: pd.Series,
    order: list[str],
    marks: Mapping[str, pd.Series],
    entries: Mapping[str, Entry],
) -> dict[str, Any]:
    seconds = float(line["seconds_fit"] + line["seconds_sample"])
    costs = (float(line["passes"]), seconds, float(line["failed"]))
    texts = (*map(tables.significant, costs[:2]), str(int(line["failed"])))
    return {
        "solver": str(line["solver"]),
        "prior": str(line["prior"]),
        "draws": int(line["draws"]),
        "scores": [
            {**score(line, m, marks[m][place]), "paper": _printed(entries[str(line["cell"])], m)}
            for m in order
        ],
        "costs": list(zip(texts, map(sortable, costs), strict=True)),
        "incomplete": bool(line["failed"] or line["missing"]),
        "entry": entries[str(line["cell"])],
    }


def _printed(entry: Entry, metric: str) -> str:
    return ", ".join(
        f"{r['printed']} ({r['source']})" for r in entry.reported if r["metric"] == metric
    )


def _history(
    lines: pd.DataFrame,
    metric: str,
    metrics: Mapping[str, Mapping[str, str]],
    entries: Mapping[str, Entry],
) -> list[dict[str, str]]:
    """Return when the best mean of a metric became better, by complete cells alone."""
    sound = lines[(lines["failed"] == 0) & (lines["missing"] == 0) & lines[metric].notna()]
    dated = sound.assign(date=[entries[str(cell)].date for cell in sound["cell"]])
    sign = 1 if metrics[metric]["direction"] == "up" else -1
    best, records = float("-inf"), []
    for date, day in dated.groupby("date"):
        top = day.loc[(sign * day[metric]).idxmax()]
        if sign * float(top[metric]) > best:
            best = sign * float(top[metric])
            records.append(
                {
                    "date": str(date),
                    "solver": str(top["solver"]),
                    "prior": str(top["prior"]),
                    "by": entries[str(top["cell"])].by,
                    "value": tables.value_and_interval(top, metric)[0],
                }
            )
    return records
