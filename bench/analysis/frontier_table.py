"""Who is best at which budget, as a table that people read, and the files of a frontier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import frontier_figure
from posterior_bench.bench.analysis.columns import to_csv
from posterior_bench.bench.analysis.frontier import Frontier, budgets_of
from posterior_bench.bench.analysis.statistics import FEWEST
from posterior_bench.bench.analysis.tables import (
    INCOMPLETE,
    decimals,
    escape_markdown,
    metric_title,
    significant,
)
from posterior_bench.bench.store.atomic import write_atomic

_HEAD = ("budget", "best", "value", "passes", "cannot be told apart from it", "compared")


def write(found: Frontier, folder: Path) -> list[Path]:
    """Write ``frontier.csv``, ``best_at_budget.csv .md`` and the figures; return their paths."""
    files = {
        "frontier.csv": to_csv(found.points),
        "best_at_budget.csv": to_csv(found.best),
        "best_at_budget.md": markdown(found).encode(),
    }
    for problem, stem in _stems(found).items():
        files |= frontier_figure.files(found, problem, stem)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    return [folder / name for name in files]


def markdown(found: Frontier) -> str:
    """Return the page: a heading, and what :func:`problem_tables` returns."""
    return "\n".join(["# Who is best at which budget", "", *problem_tables(found, "##"), ""])


def problem_tables(found: Frontier, heading: str) -> list[str]:
    """Return the metric, then a table per problem, and below it who was not compared.

    A table has a line per budget. ``heading`` is the mark of a problem's heading, such as ``##``.
    """
    parts = [metric_title(found.card)]
    for problem, points in found.points.groupby("problem", sort=False):
        best = found.best[found.best["problem"] == problem]
        lines = [_line(budget, front) for budget, front in best.groupby("budget", sort=False)]
        parts += ["", f"{heading} {escape_markdown(str(problem))}", ""]
        if lines:
            parts += [*(f"| {' | '.join(row)} |" for row in (_HEAD, _RULE, *lines)), ""]
        parts += [f"- {escape_markdown(note)}" for note in _notes(points)]
    return parts


_RULE = ("---", "---", "---:", "---:", "---", "---:")


def _line(budget: str, front: pd.DataFrame) -> list[str]:
    """Return the cells of a budget: the best with its interval, and those beside it."""
    best, others = front.iloc[0], front.iloc[1:]
    ends = f" [{_number(best, 'lo')}, {_number(best, 'hi')}]" if pd.notna(best["lo"]) else ""
    beside = ", ".join(
        f"{line['solver']} {_number(line, 'value')}" for _, line in others.iterrows()
    )
    return [
        in_words(budget),
        f"**{escape_markdown(best['solver'])}**",
        f"{_number(best, 'value')}{ends}",
        significant(best["passes"]),
        escape_markdown(beside) or ("nobody" if pd.notna(best["p"]) else "not tested"),
        str(best["solvers"]),
    ]


def _number(line: pd.Series, key: str) -> str:
    return f"{line[key]:.{decimals(line['value'], line['lo'], line['hi'])}f}"


def _notes(points: pd.DataFrame) -> Iterator[str]:
    """Yield what a reader must know of the curves of a problem."""
    n = points["n"].max()
    if n >= FEWEST:
        yield (
            f"Means over {n} images, with 95 % bootstrap intervals. Whoever cannot be told apart "
            "from the best (sign-flip test of all pairs of a budget together, 5 %) stands beside "
            "it."
        )
    elif n:
        yield (
            f"Means over {n} images. Fewer than {FEWEST} images have no interval and no test: who "
            "is called best has the best mean, and nothing more is known."
        )
    else:
        yield "No image has a value."
    lost = points[(points["failed"] > 0) | (points["missing"] > 0)]
    if len(lost):
        yield f"{INCOMPLETE} Not compared, because rows failed or are missing: {_cells(lost)}."
    other = points[~points["ranked"] & ~points.index.isin(lost.index) & (points["budget"] != "")]
    if len(other) and n:
        yield f"Not compared, because values or images differ from the others': {_cells(other)}."
    alone = points[points["budget"] == ""]
    if len(alone):
        passes = alone["passes"].map(significant)
        listed = ", ".join(
            f"{name} {cost}" for name, cost in zip(alone["solver"], passes, strict=True)
        )
        yield (
            "Without a budget, with their passes; they compete at every budget that pays for them, "
            f"unless they take none: {listed}."
        )
    for budget in budgets_of(points):
        absent = {*points.loc[points["budget"] != "", "solver"]}
        absent -= {*points.loc[points["budget"] == budget, "solver"]}
        if absent:
            yield f"No cell of {in_words(budget)}: {', '.join(sorted(absent))}."


def _cells(points: pd.DataFrame) -> str:
    """Return solvers with their budgets, as in ``dps at 25 passes, 50 passes``."""
    budgets = points["budget"].map(in_words)
    each = budgets.groupby(points["solver"]).agg(", ".join)
    return "; ".join(f"{name} at {text}" for name, text in each.items())


def in_words(budget: str) -> str:
    """Return a budget as people say it: ``25 passes``."""
    unit, _, number = budget.partition(":")
    return f"{number} {unit}" if budget else "no budget"


def _stems(found: Frontier) -> dict[str, str]:
    """Return the name of the figure of every problem that has a value, without its ending."""
    valued = found.points[np.isfinite(found.points["value"])]
    names = [*dict.fromkeys(valued["problem"])]
    stems = [f"frontier_{re.sub(r'[^A-Za-z0-9_.=-]+', '-', name).strip('-')}" for name in names]
    return dict(zip(names, stems, strict=True))
