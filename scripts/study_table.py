"""One metric of a study as Markdown, solvers against cells: ``python -m scripts.study_table STUDY
METRIC``.

Lines are sorted by their mean rank over the common cells, which every solver ran in: cells that
only some ran in are easier or harder than others. ``python -m scripts.study_table STUDY --overall``
prints the tables of the arena instead (:mod:`bench.analysis.arena_table`): averages over common cells with
intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis import arena_table, leaderboard


def pivot(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Solvers by cells: what varies among data, mask and operator names the columns."""
    short = frame.assign(
        data=frame["data"].str.removeprefix("arena/"),
        mask=frame["mask"].str.split().str[0],
        operator=frame["operator"].str.split().str[0],
        solver=frame["solver"].str.split().str[0],
    )
    varying = [name for name in ("data", "mask", "operator") if short[name].nunique() > 1]
    return short.pivot(index="solver", columns=varying or ["data"], values=metric)


def ordered(table: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Best first, with the column that orders the lines: a mean rank over the cells that every
    solver ran in.
    """
    common = table.dropna(axis=1)
    key, name = common.rank(ascending=direction != "up").mean(axis=1), "mean rank"
    flat = table.set_axis(
        [" ".join(c) if isinstance(c, tuple) else str(c) for c in table.columns], axis=1
    )
    flat.insert(0, name, key)
    flat.insert(1, "cells", table.notna().sum(axis=1))
    return flat.sort_values(name)


def markdown(table: pd.DataFrame, digits: int) -> str:
    head = f"| solver | {' | '.join(table.columns)} |"
    rule = "| --- |" + " ---: |" * len(table.columns)
    lines = [
        f"| {name} | "
        + " | ".join(_cell(column, value, digits) for column, value in row.items())
        + " |"
        for name, row in table.iterrows()
    ]
    return "\n".join([head, rule, *lines])


def _cell(column: object, value: float, digits: int) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.0f}" if column == "cells" else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
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
