"""Print one metric of a study as a Markdown table, solvers against cells.

    python -m scripts.study_table STUDY METRIC
    python -m scripts.study_table STUDY --overall

Lines are sorted by mean rank over the common cells, in which every solver ran: cells in which only
some solvers ran may be easier or harder. ``--overall`` prints the tables of the arena instead
(:mod:`bench.analysis.arena_table`): averages over common cells with intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis import arena_table, leaderboard


def pivot(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arrange a leaderboard as solvers by cells.

    The columns are named by those of data, mask and operator that vary.
    """
    short = frame.assign(
        data=frame["data"].str.removeprefix("arena/"),
        mask=frame["mask"].str.split().str[0],
        operator=frame["operator"].str.split().str[0],
        solver=frame["solver"].str.split().str[0],
    )
    varying = [name for name in ("data", "mask", "operator") if short[name].nunique() > 1]
    return short.pivot(index="solver", columns=varying or ["data"], values=metric)


def ordered(table: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Sort the best solver first, by its mean rank over the cells in which every solver ran.

    The rank and the number of cells become the first columns.
    """
    common = table.dropna(axis=1)
    key, name = common.rank(ascending=direction != "up").mean(axis=1), "mean rank"
    names = [" ".join(c) if isinstance(c, tuple) else str(c) for c in table.columns]
    flat = table.set_axis(names, axis=1)
    flat.insert(0, name, key)
    flat.insert(1, "cells", table.notna().sum(axis=1))
    return flat.sort_values(name)


def markdown(table: pd.DataFrame, digits: int) -> str:
    """Format a table as Markdown."""
    head = f"| solver | {' | '.join(table.columns)} |"
    rule = "| --- |" + " ---: |" * len(table.columns)
    lines = []
    for name, row in table.iterrows():
        cells = (_cell(column, value, digits) for column, value in row.items())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([head, rule, *lines])


def _cell(column: object, value: float, digits: int) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.0f}" if column == "cells" else f"{value:.{digits}f}"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("metric", nargs="?", default=arena_table.HEADLINE)
    parser.add_argument(
        "--overall", action="store_true", help="averages over common cells, as in docs/studies.md"
    )
    parser.add_argument("--digits", type=int, default=3)
    options = parser.parse_args()
    if options.overall:
        print(arena_table.arena_markdown(options.study, options.metric), end="")
        return
    frame = leaderboard.build(options.study)
    if options.metric not in frame.attrs["metrics"]:
        parser.error(
            f"no metric '{options.metric}' in {options.study}; valid: "
            f"{', '.join(frame.attrs['metrics'])}"
        )
    direction = frame.attrs["metrics"][options.metric]["direction"]
    print(markdown(ordered(pivot(frame, options.metric), direction), options.digits))


if __name__ == "__main__":
    main()
