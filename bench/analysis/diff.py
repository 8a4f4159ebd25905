"""Compare two studies, for example last month's and today's (``bench diff A B``).

Cells of the two are matched by content: first cells with the same name, which is a hash of
everything that a number depends on by definition, then cells of the same solver on the same images
with the same mask, operator and prior, at last cells with the same names. For every pair the text
says what has changed (code, versions, settings) and what that did to the numbers, image by image,
with a paired test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis.families import ALPHA, family
from posterior_bench.bench.analysis.statistics import FEWEST, Array
from posterior_bench.bench.analysis.study_cells import (
    StudyCell,
    changes_between,
    match_lines,
    other_pictures,
    other_task,
    same_definition,
    study_cells,
)
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.core.errors import UserError, unknown

COLUMNS = [
    "solver",
    "data",
    "mask",
    "operator",
    "prior",
    "metric",
    "a",
    "b",
    "difference",
    "lo",
    "hi",
    "p",
    "n",
]
"""Of the table; ``difference`` is B minus A, ``lo`` to ``hi`` its interval, ``p`` adjusted over the
cells of a metric.

``n`` counts the images that both have a finite value of.
"""


_LISTED = 20


@dataclass(frozen=True)
class StudyDifference:
    """What two studies have in common, and what differs.

    Parameters
    ----------
    pairs : int
        How many cells were matched.
    alone : tuple of two sequences of str
        The names of cells that only A has, and only B.
    changes : mapping of str to int
        Sentences, each with the number of pairs it is true of.
    table : DataFrame
        The columns :data:`COLUMNS`, a line per pair and metric.
    refused : sequence of str
        The pairs whose numbers are not compared, and why.
    """

    pairs: int
    alone: tuple[Sequence[str], Sequence[str]]
    changes: Mapping[str, int]
    table: pd.DataFrame
    refused: Sequence[str]

    def text(self) -> str:
        """Return all of it for a terminal, one fact per line.

        Only the numbers that differ significantly are listed; the others are counted.
        """
        lines = [f"{self.pairs} cells are in both studies."]
        for side, names in zip("AB", self.alone, strict=True):
            if names:
                lines.append(f"Only in {side}: {len(names)} cells ({_some(names)}).")
        lines += ["", "What changed:" if self.changes else "No code, version or setting changed."]
        lines += [f"  {change} ({_count(count, 'cell')})" for change, count in self.changes.items()]
        lines += [f"Not compared: {reason}." for reason in self.refused]
        return "\n".join([*lines, "", *self._numbers()])

    def _numbers(self) -> list[str]:
        table = self.table
        if not len(table):
            return ["There are no numbers to compare."]
        equal = table["difference"].eq(0) & table["a"].eq(table["b"]) & table["lo"].eq(0)
        significant = table[table["p"] <= ALPHA]
        said = (
            f"{len(table)} means were compared: {int(equal.sum())} are equal on every image, "
            f"{len(significant)} differ "
        )
        lines = [
            f"{said}significantly (paired sign-flip test, adjusted over the cells of a metric, 5 "
            "%), the others cannot be told apart."
        ]
        few = int((table["n"] < FEWEST).sum())
        if few:
            lines.append(f"{few} of them are of fewer than {FEWEST} images, which are not tested.")
        order = (
            significant["difference"]
            .abs()
            .div(significant["hi"] - significant["lo"])
            .sort_values(ascending=False)
            .index
        )
        lines += [_line(significant.loc[i]) for i in order[:_LISTED]]
        if len(order) > _LISTED:
            lines.append(f"  and {len(order) - _LISTED} more; out=FILE.csv writes them all")
        return lines


def diff(a: Path, b: Path, metric: str | None = None) -> StudyDifference:
    """Compare two studies.

    Parameters
    ----------
    a, b : Path
        The study folders.
    metric : str, optional
        One metric; None = all metrics that both studies have.

    Raises
    ------
    UserError
        If the studies do not both have the metric.
    """
    try:
        one, two = (summarise_study(folder) for folder in (a, b))
    except ValueError as error:
        raise UserError(str(error)) from None
    metrics = [name for name in one.images if name in two.images]
    if metric is not None and metric not in metrics:
        raise unknown("metric of both studies", metric, metrics)
    pairs = match_lines(one.lines, two.lines)
    changes, refused, lines = Counter[str](), list[tuple[str, str]](), list[list[object]]()
    sides_a, sides_b = study_cells(one, a), study_cells(two, b)
    for line_a, line_b in pairs:
        first, second = sides_a[line_a["cell"]], sides_b[line_b["cell"]]
        changes.update(changes_between(first, second))
        if reason := other_task(first, second) or other_pictures(first.truth, second.truth):
            refused.append((reason, first.name))
            continue
        for chosen in [metric] if metric else metrics:
            if same_definition(chosen, first, second):
                lines += _numbers(first, second, chosen)
            else:
                refused.append((f"the two versions compute {chosen} in different ways", first.name))
    table = pd.DataFrame(lines, columns=COLUMNS)
    table["p"] = table.groupby("metric")["p"].transform(_holm)
    matched = [{str(pair[side]["cell"]) for pair in pairs} for side in (0, 1)]
    alone = (_others(one.lines, matched[0]), _others(two.lines, matched[1]))
    return StudyDifference(len(pairs), alone, dict(changes.most_common()), table, _counted(refused))


def _others(lines: pd.DataFrame, matched: Collection[str]) -> list[str]:
    """Return the solvers of the cells that are not matched."""
    return lines.loc[~lines["cell"].isin([*matched]), "label"].astype(str).tolist()


def _numbers(first: StudyCell, second: StudyCell, metric: str) -> list[list[object]]:
    """Return the line of a pair and a metric, ``p`` not adjusted; none without a common image."""
    a, b = first.values(metric), second.values(metric)
    both = a.index.intersection(b.index)
    one, two = a[both].to_numpy(float), b[both].to_numpy(float)
    finite = np.isfinite(one) & np.isfinite(two)
    one, two = one[finite], two[finite]
    if not len(one):
        return []
    named = [first.line[key] for key in ("label", "data", "mask", "operator", "prior")]
    means = [one.mean(), two.mean(), (two - one).mean()]
    return [[*named, metric, *means, *_tested(one, two, metric), len(one)]]


def _tested(a: Array, b: Array, key: str) -> tuple[float, float, float]:
    """Return the interval of B minus A and the p value of the pair alone.

    NaN for too few images.
    """
    if np.array_equal(a, b):
        return 0.0, 0.0, 1.0
    if len(a) < FEWEST:
        return np.nan, np.nan, np.nan
    found = family(np.stack([a, b]), key)
    return *found.interval(1, 0), float(found.p[0, 1])


def _holm(p: pd.Series) -> pd.Series:
    """Return adjusted p values; NaN stays.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    known = p.dropna().sort_values()
    factors = np.arange(len(known), 0, -1)
    adjusted = pd.Series(
        np.minimum(np.maximum.accumulate(known.to_numpy() * factors), 1.0), index=known.index
    )
    return adjusted.reindex(p.index)


def _line(row: pd.Series) -> str:
    place = " · ".join(str(row[key]) for key in ("solver", "data", "mask"))
    means = f"{row['a']:.4g} -> {row['b']:.4g} ({row['difference']:+.2g}"
    interval = f"95 % interval of this pair [{row['lo']:+.2g}, {row['hi']:+.2g}]"
    return (
        f"  {place}  {row['metric']}: {means}, {interval}, adjusted p = {row['p']:.2g}, "
        f"{row['n']} images)"
    )


def _counted(refused: Sequence[tuple[str, str]]) -> list[str]:
    """Return every reason once, with the pairs it is true of."""
    by_reason: dict[str, list[str]] = {}
    for reason, name in refused:
        by_reason.setdefault(reason, []).append(name)
    return [f"{_some(names)}: {reason}" for reason, names in by_reason.items()]


def _some(names: Sequence[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
