"""Two solvers in the same line-up: find their cells, and judge the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from posterior_bench.bench.analysis import paired, tables
from posterior_bench.bench.analysis.cell_records import CellRecord
from posterior_bench.bench.analysis.ranked_groups import RankedGroup
from posterior_bench.bench.analysis.statistics import FEWEST, Array
from posterior_bench.bench.core.errors import UserError, unknown

LINEUP = ["data", "mask", "operator", "prior", "seed"]


WHERE = (*LINEUP, "images", "draws")


LOST = ("failed", "missing")


@dataclass(frozen=True)
class Verdict:
    """The first solver minus the second, judged with all pairs of their table.

    Parameters
    ----------
    differ : bool
        Whether the two can be told apart at 5 %.
    p : float
        The adjusted p value.
    lo, hi : float
        The simultaneous 95 % interval; it excludes zero if and only if ``differ``.
    solvers : sequence of str
        The solvers of the table.
    equal : bool
        Whether the two are equal within the margin, tested at 5 %; False without a margin.
    equal_lo, equal_hi : float
        The simultaneous 90 % interval; it lies within the margin if and only if ``equal``.
    """

    differ: bool
    p: float
    lo: float
    hi: float
    solvers: Sequence[str]
    equal: bool
    equal_lo: float
    equal_hi: float


@dataclass(frozen=True)
class Match:
    """Two solvers in one line-up.

    Parameters
    ----------
    lineup : str
        Its heading.
    a, b : array (n,)
        Values of the same images.
    result : paired.Comparison
        The statistics of this pair alone.
    verdict : Verdict | None
        None where the two cannot be compared.
    why : str, default ''
        Why they cannot, in one sentence.
    left_out : int, default 0
        How many images have a value of only one of the two.
    """

    lineup: str
    a: Array
    b: Array
    result: paired.Comparison
    verdict: Verdict | None
    why: str = ""
    left_out: int = 0


def metric_card(cells: Sequence[CellRecord], metric: str) -> Mapping[str, str]:
    """Return the card of a metric that has a value per image."""
    cards = {
        name: card for cell in cells for name, card in cell.metrics.items() if name not in cell.sets
    }
    if metric not in cards and any(metric in cell.sets for cell in cells):
        raise UserError(
            f"'{metric}' is one value from all images, so nothing can be paired. Valid: "
            f"{', '.join(cards)}"
        )
    if metric not in cards:
        raise unknown("metric", metric, cards)
    return {"direction": "none", **cards[metric]}


def demand_current_metric(
    cells: Sequence[CellRecord], metric: str, pairs: Sequence[tuple[str, str, str]]
) -> None:
    """Raise UserError if a cell's values are those of an earlier definition of the metric."""
    stale = [c.name for c in cells if metric in c.stale and any(c.name in pair for pair in pairs)]
    if stale:
        raise UserError(
            f"an earlier version computed '{metric}' of the cell {stale[0]} in another way; run it "
            "again in another out=DIR"
        )


def chosen_lines(lines: pd.DataFrame, given: Mapping[str, str]) -> pd.DataFrame:
    """Return the cells that the settings leave."""
    for key in WHERE:
        if key in given:
            values = lines[key].astype(str)
            chosen = (values == given[key]) | (values.str.partition(" ")[0] == given[key])
            if not chosen.any():
                raise unknown(key, given[key], {*values})
            lines = lines[chosen]
    return lines


def pairs_of_cells(lines: pd.DataFrame, a: str, b: str) -> list[tuple[str, str, str]]:
    """Return heading and two cells of every line-up that has both solvers."""
    for key in (a, b):
        if not ((lines["label"] == key) | (lines["solver"] == key)).any():
            raise unknown("solver", key, {*lines["label"]})
    pairs = []
    for names, group in lines.groupby(LINEUP, sort=True):
        data, mask, operator, prior, seed = names
        heading = f"{data} · {mask} · {operator} · prior {prior} · seed {seed}"
        for more, part in _alike(group, a, b):
            cells = [_cell(part, key, heading + more) for key in (a, b)]
            if cells[0] and cells[1]:
                pairs.append((heading + more, cells[0], cells[1]))
    if not pairs:
        raise UserError(
            f"the two share no data, mask, operator, prior and seed: {_where(lines, a)}; "
            f"{_where(lines, b)}"
        )
    if a == b or any(first == second for _, first, second in pairs):
        raise UserError(
            f"a={a} and b={b} are the same. Valid: {', '.join(sorted({*lines['label']}))}"
        )
    return pairs


def _alike(group: pd.DataFrame, a: str, b: str) -> list[tuple[str, pd.DataFrame]]:
    """Return the parts of a line-up with the same images and prior where both have a cell.

    Else all.
    """
    found = []
    for (content, _), part in group.groupby(["content", "fingerprint"], sort=False):
        if all(((part["label"] == key) | (part["solver"] == key)).any() for key in (a, b)):
            found.append((f" · images {content[:6]}", part))
    return [("", found[0][1])] if len(found) == 1 else found or [("", group)]


def _cell(group: pd.DataFrame, solver: str, heading: str) -> str | None:
    """Return the cell of a solver in a line-up, if there is one.

    Its label wins over its bare name.
    """
    found = group[group["label"] == solver]
    found = found if len(found) else group[group["solver"] == solver]
    if len(found) > 1:
        each = found[["label", "images", "draws"]].to_numpy()
        valid = ", ".join(
            f"'{label}' ({images} images x {draws} draws)" for label, images, draws in each
        )
        several = f"{len(found)} cells match '{solver}' in {heading}"
        raise UserError(f"{several}: name one of {valid}, or narrow them with images= and draws=")
    return str(found["cell"].iloc[0]) if len(found) else None


def _where(lines: pd.DataFrame, solver: str) -> str:
    mine = lines[(lines["label"] == solver) | (lines["solver"] == solver)]
    return f"{solver} has " + ", ".join(
        dict.fromkeys(" · ".join(map(str, names)) for names in mine[LINEUP].to_numpy())
    )


def match_cells(
    means: pd.Series,
    heading: str,
    a: pd.Series,
    b: pd.Series,
    families: Sequence[RankedGroup],
    labels: pd.Series,
    margin: float | None = None,
) -> Match:
    """Return the comparison of two cells; ``a`` and ``b`` are their lines."""
    there = means.index.get_level_values("cell")
    first, second = (means[there == cell.name].droplevel("cell").dropna() for cell in (a, b))
    unranked = _unranked(a, b)
    common = first.index.intersection(second.index)
    left_out = len(first) + len(second) - 2 * len(common)
    if unranked:
        first, second = first[common], second[common]
    try:
        values = paired.pair_values(first, second)
        result = paired.compare_pair(*values, heading)
    except ValueError as error:
        raise UserError(f"{heading}: {error}" + f" ({unranked})" * bool(unranked)) from None
    family = next((f for f in families if {a.name, b.name} <= {*f.cells}), None)
    if unranked or family is None:
        return Match(heading, *values, result, None, unranked or _too_few(a, b, result.n), left_out)
    i, j = list(family.cells).index(str(a.name)), list(family.cells).index(str(b.name))
    tested = family.family
    verdict = Verdict(
        bool(tested.differ[i, j]),
        float(tested.p[i, j]),
        *tested.interval(i, j),
        [str(labels[cell]) for cell in family.cells],
        margin is not None and tested.equal(i, j, margin),
        *tested.equal_interval(i, j),
    )
    return Match(heading, *values, result, verdict)


def _unranked(a: pd.Series, b: pd.Series) -> str:
    """Return why the leaderboard does not rank two cells against each other; empty if it does."""
    for line in (a, b):
        lost = [f"{line[key]} {key} row{'s' if line[key] > 1 else ''}" for key in LOST if line[key]]
        if lost:
            return (
                f"No verdict: {line['label']} has {' and '.join(lost)}, and the images that are "
                "left may be easier than the others. Run the cell again with retry=true."
            )
        if line["mixed"]:
            return (
                f"No verdict: the rows of {line['label']} were computed with different things "
                f"({line['mixed']})."
            )
    for key in tables.RANKED:
        if key not in LINEUP and a[key] != b[key]:
            return (
                f"No verdict: {a['label']} has {key}={a[key]} and {b['label']} has {key}={b[key]}; "
                f"only cells with the same {key} are compared."
            )
    return ""


def _too_few(a: pd.Series, b: pd.Series, n: int) -> str:
    """Return why two cells of a table are in no family."""
    if n < FEWEST:
        return (
            f"Fewer than {FEWEST} images cannot say which of {a['label']} and {b['label']} is "
            "better."
        )
    return (
        "No verdict: most solvers of this table have values of other images, so these two are not "
        "ranked."
    )
