"""The content of a table of a paper: which cells and columns, values, marks and letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.display_names import display_name
from posterior_bench.bench.analysis.letters import letters, share
from posterior_bench.bench.analysis.matches import chosen_lines
from posterior_bench.bench.core.errors import UserError, unknown

COSTS = {"passes": "Passes", "seconds": "Seconds / draw"}
"""Columns of costs, which have no interval and no mark."""

MOST_METRICS = 3
"""Metrics of a table whose metrics are not named."""

FLAGS = {
    "†": "rows failed or are missing: the mean leaves them out, and the cell is not ranked",
    "‡": "images with an infinite value are left out of the mean",
    "§": "rows were computed with different code or software, and the cell is not ranked",
}
"""What a reader must know of single values, by the sign at the value."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A value in a table, as text.

    Parameters
    ----------
    value : str
        The mean.
    interval : str, default ''
        Its interval, ``[lo, hi]``.
    mark : str, default ''
        ``best``, ``second`` or nothing.
    letters : str, default ''
        The rank letters.
    flags : str, default ''
        The signs of :data:`FLAGS` that the value needs.
    """

    value: str
    interval: str = ""
    mark: str = ""
    letters: str = ""
    flags: str = ""


@dataclass(frozen=True)
class Block:
    """The cells that saw the same images and measurements.

    Parameters
    ----------
    heading : str
        What tells the block from the others; empty for a single one.
    entries : mapping of tuple to sequence of Entry
        The entries of every line, by the names at its left.
    """

    heading: str
    entries: Mapping[Key, Sequence[Entry]]


def chosen_cells(
    frame: pd.DataFrame, rows: Sequence[str], where: Mapping[str, str]
) -> pd.DataFrame:
    """Return the lines of a leaderboard that a table shows, in the order of ``rows``.

    Raises
    ------
    UserError
        If a solver or a value does not exist.
    """
    # the tables' name of a solver is what is typed, with or without its changed settings
    lines = chosen_lines(frame, where)
    names = lines["solver"].str.partition(" ")[0]
    parts = []
    for row in dict.fromkeys(rows):
        mine = lines[(lines["solver"] == row) | (names == row)]
        if mine.empty:
            raise unknown("solver", row, {*lines["solver"], *names})
        parts.append(mine)
    chosen = pd.concat(parts) if parts else lines
    chosen = chosen[~chosen.index.duplicated()]
    chosen.attrs = frame.attrs
    return chosen


def chosen_columns(lines: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """Return the columns of a table: those wanted, else the first headlines and the passes.

    Raises
    ------
    UserError
        If a metric does not exist, or has no value in these cells.
    """
    cards = lines.attrs["metrics"]
    for name in wanted:
        if name not in cards and name not in COSTS:
            raise unknown("metric", name, [*cards, *COSTS])
        if name in cards and not (lines[name].notna() | (lines[f"{name}_inf"] > 0)).any():
            raise UserError(f"metric '{name}' has no value in these cells; leave it out")
    if wanted:
        return list(dict.fromkeys(wanted))
    heads = [
        name
        for name in tables.headlines(cards, lines)
        if cards[name]["direction"] != "none"
        and lines[name].notna().any()
        and not (lines[f"{name}_inf"] > 0).any()
    ]
    return [*heads[:MOST_METRICS], "passes"]


def column_title(frame: pd.DataFrame, name: str) -> str:
    """Return the title of a column, with its unit and an arrow to better values."""
    return COSTS.get(name) or full_title(frame.attrs["metrics"][name])


def full_title(card: Mapping[str, str]) -> str:
    """Return the title of a metric with the pixels that are meant, its unit and an arrow."""
    return tables.metric_title({**card, "title": card.get("full") or card["title"]})


def side_columns(lines: pd.DataFrame) -> list[str]:
    """Return the columns left of the values: the solver, and what else tells lines apart."""
    return ["solver", *(name for name in ("prior", "draws") if lines[name].nunique() > 1)]


def blocks(lines: pd.DataFrame, columns: Sequence[str]) -> list[Block]:
    """Return the blocks of a table, in the order of the leaderboard."""
    names = _display_names(lines)
    side = side_columns(lines)
    parts = [*lines.groupby(tables.GROUP, sort=False)]
    told = [i for i, _ in enumerate(tables.GROUP) if len({keys[i] for keys, _ in parts}) > 1]
    spelt = {"images": "{} images", "seed": "seed {}", "content": "pictures {:.6}"}
    found = []
    for keys, part in parts:
        heading = [spelt.get(tables.GROUP[i], "{}").format(keys[i]) for i in told]
        ranked = {name: _ranked(part, name) for name in columns}
        places = {name: _places(lines, name) for name in columns}
        entries = {
            (names[i], *(str(line[name]) for name in side[1:])): [
                _entry(line, name, ranked[name].loc[i], places[name]) for name in columns
            ]
            for i, line in part.iterrows()
        }
        found.append(Block(" · ".join(heading), entries))
    return found


def _display_names(lines: pd.DataFrame) -> pd.Series:
    """Return the names of solvers; the leaderboard's own where two would look the same."""
    labels = lines["solver"].drop_duplicates()
    shown = labels.map(display_name)
    shown = shown.where(~shown.duplicated(keep=False), labels)
    return lines["solver"].map(dict(zip(labels, shown, strict=True)))


def _ranked(lines: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return ``mark`` and ``letters`` of the lines of a block: both only where tests were made.

    The letters are those of the leaderboard, named anew where some of its solvers are left out.
    """
    found = pd.DataFrame({"mark": "", "letters": ""}, index=lines.index, dtype=object)
    rank = f"{name}_rank"
    if rank not in lines:
        return found
    direction = lines.attrs["metrics"][name]["direction"]
    for _, part in lines[lines[rank] != ""].groupby(tables.RANKED, sort=False):
        best_first = part.sort_values(name, ascending=direction == "down", kind="stable")
        shared = [[share(a, b) for b in best_first[rank]] for a in best_first[rank]]
        if len(part) > 1:
            found.loc[best_first.index, "letters"] = letters(~np.array(shared))
    found["mark"] = tables.ranking(lines, name, direction).where(found["letters"] != "", "")
    return found


def _places(lines: pd.DataFrame, name: str) -> int:
    """Return the decimals of a column of a metric: the median of those of its lines."""
    if name in COSTS:
        return 0
    values = lines[[name, f"{name}_lo", f"{name}_hi"]].dropna(subset=[name]).to_numpy(float)
    return int(np.median([tables.decimals(*ends) for ends in values])) if len(values) else 0


def _entry(line: pd.Series, name: str, place: pd.Series, places: int) -> Entry:
    if name == "passes":
        return Entry(tables.significant(line["passes"]).removesuffix(".0"))
    if name == "seconds":
        return Entry(tables.significant(line["seconds_fit"] + line["seconds_sample"]))
    value, lo, hi = (float(line[f"{name}{end}"]) for end in ("", "_lo", "_hi"))
    infinite = bool(line[f"{name}_inf"])
    text = "∞" if infinite and np.isnan(value) else tables.number(value, places)
    ends = "" if np.isnan(lo) else f"[{tables.number(lo, places)}, {tables.number(hi, places)}]"
    faults = (line["failed"] or line["missing"], infinite, line["mixed"])
    flags = "".join(sign for sign, there in zip(FLAGS, faults, strict=True) if there)
    return Entry(text, ends, place["mark"], place["letters"], flags)
