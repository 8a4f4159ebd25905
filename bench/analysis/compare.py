"""``bench compare``: two solvers of a study on the same images, in a paragraph and a scatter plot a
line-up.

A line-up is what both were run on: data, mask, operator, prior and seed. Its verdict, interval and
adjusted p value are those behind the rank letters of the leaderboard, over all pairs of the solvers
of the same table, so that the two cannot contradict each other; tests of the pair alone stand
beside them. Cells that the leaderboard does not rank against each other get no verdict here, and a
line says why. The plot is that of VIPaint's Fig. 10: an image is a point, and where the two do
equally well it lies on the diagonal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posterior_bench.bench.analysis import (
    paired,
    tables,
)
from posterior_bench.bench.analysis.cell_records import CellRecord, read_cells
from posterior_bench.bench.analysis.figures import COLOURS, COLUMNS, render
from posterior_bench.bench.analysis.ranked_groups import Compared, compared
from posterior_bench.bench.analysis.statistics import FEWEST, Array
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.truth import demand_paired

LINEUP = ["data", "mask", "operator", "prior", "seed"]
GIVEN = ("a", "b", "metric")
WHERE = (*LINEUP, "images", "draws")
USAGE = "bench compare STUDY a=SOLVER b=SOLVER metric=NAME [mask=... data=...]"
SIDE, TITLE = 3.3, 48
"""Inches of a panel's side, and how many characters of a title fit on it."""

LOST = ("failed", "missing")
_BETTER = {
    "up": "higher is better",
    "down": "lower is better",
    "none": "neither direction is better",
}


@dataclass(frozen=True)
class Verdict:
    """The first minus the second, judged with all pairs of their table.

    ``lo`` to ``hi`` is the simultaneous 95 % interval and ``p`` the adjusted p value; the interval
    excludes zero if and only if ``differ``. ``solvers`` name the table's.
    """

    differ: bool
    p: float
    lo: float
    hi: float
    solvers: Sequence[str]


@dataclass(frozen=True)
class Match:
    """Values ``a`` and ``b`` ``(n,)`` of the same images in one line-up, and what they come to.

    ``verdict`` is None where the two cannot be compared, and ``why`` says why in one sentence.
    ``left_out`` counts the images that only one of the two has a value of.
    """

    lineup: str
    a: Array
    b: Array
    result: paired.Comparison
    verdict: Verdict | None
    why: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class Report:
    """What is compared: solvers ``a`` and ``b`` by ``metric``, whose ``card`` says title, direction
    and unit.
    """

    a: str
    b: str
    metric: str
    card: Mapping[str, str]
    matches: Sequence[Match]

    def text(self) -> str:
        """One paragraph a line-up, its heading above it."""
        return "\n\n".join(f"{match.lineup}\n{self._paragraph(match)}" for match in self.matches)

    def _paragraph(self, match: Match) -> str:
        result, unit = match.result, self._unit()
        if result.n < 2:
            return match.why
        sentences = [self._verdict(match), self._means(match)]
        if match.verdict:
            sentences += [_procedure(match.verdict), *self._alone(result)]
        sentences.append(self._wins(result))
        if match.verdict:
            sentences.append(
                f"With so many images the t-test of this pair alone finds a true difference of "
                f"{result.detectable:.2g}"
                f"{unit} in 80 % of studies; over all pairs of a table it takes more."
            )
        return " ".join(sentences)

    def _unit(self) -> str:
        return f" {self.card['unit']}" if self.card.get("unit") else ""

    def _means(self, match: Match) -> str:
        """Both means and their difference, with its interval where there is one."""
        result, unit = match.result, self._unit()
        found = (
            f"{self._title()} is {result.mean_a:.4g}{unit} for {self.a} and "
            f"{result.mean_b:.4g}{unit} for {self.b}: "
            f"a mean difference of {result.difference:+.3g}{unit}"
        )
        if match.verdict:
            found += (
                f", simultaneous 95 % interval [{match.verdict.lo:+.3g}, {match.verdict.hi:+.3g}], "
                f"adjusted {_p(match.verdict.p)}"
            )
        if match.left_out:
            return (
                f"On the {result.n} images that both have, which may be easier than the "
                f"others: "
                f"{found}."
            )
        return f"{found}, over n = {result.n} images, draws averaged first."

    def _alone(self, result: paired.Comparison) -> list[str]:
        """The tests of one pair."""
        tests = {
            "sign-flip": result.p_flip,
            "t-test": result.p_t,
            "Wilcoxon signed-rank test": result.p_wilcoxon,
        }
        sentences = [
            f"Tests of this pair alone, two-sided, not adjusted: "
            f"{', '.join(f'{name} {_p(p)}' for name, p in tests.items())}. "
            f"Effect size d_z = {result.effect_size:+.2f}."
        ]
        if len({p < paired.ALPHA for p in tests.values()}) > 1:
            sentences.append(
                "These tests disagree at 5 %: look at the plot for images that stand apart."
            )
        return sentences

    def _wins(self, result: paired.Comparison) -> str:
        wins, losses = _wins(result, self.card["direction"])
        ties = result.n - wins - losses
        if self.card["direction"] == "none":
            return f"{self.a} is lower in {wins} of {result.n} images, {self.b} in {losses}."
        return (
            f"{self.a} wins in {wins} of {result.n} images, {self.b} in {losses}"
            + (f", {ties} ties" if ties else "")
            + "."
        )

    def _verdict(self, match: Match) -> str:
        if match.verdict is None:
            return match.why
        if not match.verdict.differ:
            return f"{self.a} and {self.b} cannot be told apart."
        if self.card["direction"] == "none":
            return (
                f"{self.a} is {'lower' if match.result.difference < 0 else 'higher'} than {self.b}."
            )
        first = (match.result.difference > 0) == (self.card["direction"] == "up")
        better, worse = (self.a, self.b) if first else (self.b, self.a)
        return f"{better} is better than {worse}."

    def _title(self) -> str:
        return (
            f"{self.card.get('title', self.metric)} ({self.metric}, "
            f"{_BETTER[self.card['direction']]})"
        )

    def figure(self) -> Figure:
        """A panel a line-up, an image a point; squares of equal axes with the diagonal."""
        columns = min(COLUMNS, len(self.matches))
        rows = math.ceil(len(self.matches) / columns)
        figure = Figure(
            figsize=(max(SIDE * columns, 4.2), (SIDE + 0.4) * rows + 0.4), layout="constrained"
        )
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, match in zip(panels, self.matches, strict=False):
            self._panel(panel, match)
        for panel in panels[len(self.matches) :]:
            panel.set_axis_off()
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower center", ncols=len(names), fontsize=7, frameon=False
        )
        return figure

    def _panel(self, panel: Axes, match: Match) -> None:
        sign = -1 if self.card["direction"] == "up" else 1
        gain = sign * (match.b - match.a)
        word = "lower" if self.card["direction"] == "none" else "better"
        looks = (
            (gain > 0, "o", COLOURS[0], f"{self.a} {word}"),
            (gain < 0, "^", COLOURS[1], f"{self.b} {word}"),
        )
        for where, marker, colour, name in looks:
            points = (match.a[where], match.b[where], marker)
            panel.plot(
                *points, color=colour, markersize=4, alpha=0.75, markeredgewidth=0, label=name
            )
        equal = gain == 0
        panel.plot(match.a[equal], match.b[equal], "s", color="#777777", markersize=3)
        mean = ([match.result.mean_a], [match.result.mean_b])
        panel.plot(*mean, "P", color="black", markeredgecolor="white", markersize=8, label="mean")
        both = np.concatenate([match.a, match.b])
        room = 0.05 * (both.max() - both.min()) or 0.05 * abs(both[0]) or 0.05
        ends = (both.min() - room, both.max() + room)
        panel.plot(ends, ends, color="#777777", linewidth=1, linestyle="--", zorder=0)
        unit = f" in {self.card['unit']}" if self.card.get("unit") else ""
        panel.set(xlim=ends, ylim=ends, aspect="equal")
        panel.set_xlabel(f"{self.a}: {self.card.get('title', self.metric)}{unit}", fontsize=8)
        panel.set_ylabel(f"{self.b}: {self.card.get('title', self.metric)}{unit}", fontsize=8)
        wins, losses = _wins(match.result, self.card["direction"])
        score = f"{wins} : {losses} of {match.result.n} images"
        panel.set_title(f"{fill(match.lineup, TITLE)}\n{score}", fontsize=7, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, color="#e4e4e4", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=7)


def compare(arguments: Sequence[str]) -> tuple[Report, Path]:
    """Compare as the command line says; writes ``compare_A_B_METRIC.svg`` and ``.png`` into the
    study folder.

    Returns the report and the path of the PNG. Raises UserError, one line, for whatever does not
    exist or match.
    """
    study, given = _parsed(arguments)
    try:
        card = _card(read_cells(study), given["metric"])
        found = summarise_study(study)
    except ValueError as error:
        raise UserError(str(error)) from None
    pairs = _pairs(_chosen(found.lines, given), given["a"], given["b"])
    _demand_present(found.cells, given["metric"], pairs)
    rows = read_study(study, ["status", "truth"])
    for heading, first, second in pairs:
        demand_paired(rows, heading, (first, given["a"]), (second, given["b"]))
    images = found.images.reindex(columns=[given["metric"]])
    # the families are those of the leaderboard, whatever mask= and the like leave of its tables
    families = compared(found.lines, images, [given["metric"]])
    lines = found.lines.set_index("cell")
    matches = [
        _match(
            images[given["metric"]], heading, lines.loc[a], lines.loc[b], families, lines["label"]
        )
        for heading, a, b in pairs
    ]
    report = Report(given["a"], given["b"], given["metric"], card, matches)
    name = "_".join(re.sub(r"[^A-Za-z0-9_.=-]+", "-", given[key]).strip("-") for key in GIVEN)
    figure = report.figure()
    for kind in ("svg", "png"):
        write_atomic(study / f"compare_{name}.{kind}", render(figure, kind))
    return report, study / f"compare_{name}.png"


def _parsed(arguments: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """The study folder and the settings, all of them known."""
    if not arguments or "=" in arguments[0]:
        raise UserError(f"'compare' takes a study folder first: {USAGE}")
    study = Path(arguments[0])
    given: dict[str, str] = {}
    for argument in arguments[1:]:
        key, _, value = argument.partition("=")
        if key not in (*GIVEN, *WHERE):
            raise unknown("setting of compare", key, (*GIVEN, *WHERE))
        given[key] = value
    missing = [key for key in GIVEN if not given.get(key)]
    if missing:
        raise UserError(f"'compare' needs {'=, '.join(missing)}=: {USAGE}")
    return study, given


def _card(cells: Sequence[CellRecord], metric: str) -> Mapping[str, str]:
    """The card of a metric that has a value per image."""
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


def _demand_present(
    cells: Sequence[CellRecord], metric: str, pairs: Sequence[tuple[str, str, str]]
) -> None:
    """UserError where a cell's values are those of an earlier definition of the metric."""
    stale = [c.name for c in cells if metric in c.stale and any(c.name in pair for pair in pairs)]
    if stale:
        raise UserError(
            f"an earlier version computed '{metric}' of the cell {stale[0]} in another way; run it "
            f"again in another "
            "out=DIR"
        )


def _chosen(lines: pd.DataFrame, given: Mapping[str, str]) -> pd.DataFrame:
    """The cells that the settings leave."""
    for key in WHERE:
        if key in given:
            values = lines[key].astype(str)
            chosen = (values == given[key]) | (values.str.partition(" ")[0] == given[key])
            if not chosen.any():
                raise unknown(key, given[key], {*values})
            lines = lines[chosen]
    return lines


def _pairs(lines: pd.DataFrame, a: str, b: str) -> list[tuple[str, str, str]]:
    """Heading and the two cells of every line-up that has both."""
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
            f"no data, mask, operator, prior and seed have both: {_where(lines, a)}; "
            f"{_where(lines, b)}"
        )
    if a == b or any(first == second for _, first, second in pairs):
        raise UserError(
            f"a={a} and b={b} are the same. Valid: {', '.join(sorted({*lines['label']}))}"
        )
    return pairs


def _alike(group: pd.DataFrame, a: str, b: str) -> list[tuple[str, pd.DataFrame]]:
    """A line-up parted by the content of images and prior where both solvers have a cell of the
    same; else whole.
    """
    found = []
    for (content, _), part in group.groupby(["content", "fingerprint"], sort=False):
        if all(((part["label"] == key) | (part["solver"] == key)).any() for key in (a, b)):
            found.append((f" · images {content[:6]}", part))
    return [("", found[0][1])] if len(found) == 1 else found or [("", group)]


def _cell(group: pd.DataFrame, solver: str, heading: str) -> str | None:
    """The cell of a solver in a line-up, if there is one; its label wins over its bare name."""
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


def _match(
    means: pd.Series,
    heading: str,
    a: pd.Series,
    b: pd.Series,
    families: Sequence[Compared],
    labels: pd.Series,
) -> Match:
    """The comparison of two cells; ``a`` and ``b`` are their lines, whose names are those of the
    cells.
    """
    there = means.index.get_level_values("cell")
    first, second = (means[there == cell.name].droplevel("cell").dropna() for cell in (a, b))
    unranked = _unranked(a, b)
    common = first.index.intersection(second.index)
    left_out = len(first) + len(second) - 2 * len(common)
    if unranked:
        first, second = first[common], second[common]
    try:
        values = paired.pair(first, second)
        result = paired.compare(*values, heading)
    except ValueError as error:
        raise UserError(f"{heading}: {error}" + f" ({unranked})" * bool(unranked)) from None
    family = next((f for f in families if {a.name, b.name} <= {*f.cells}), None)
    if unranked or family is None:
        return Match(heading, *values, result, None, unranked or _too_few(a, b, result.n), left_out)
    i, j = list(family.cells).index(str(a.name)), list(family.cells).index(str(b.name))
    ends = family.family.interval(i, j)
    solvers = [str(labels[cell]) for cell in family.cells]
    verdict = Verdict(
        bool(family.family.differ[i, j]), float(family.family.p[i, j]), *ends, solvers
    )
    return Match(heading, *values, result, verdict)


def _unranked(a: pd.Series, b: pd.Series) -> str:
    """Why the leaderboard does not rank two cells against each other, in one line; nothing where it
    does.
    """
    for line in (a, b):
        lost = [f"{line[key]} {key} row{'s' if line[key] > 1 else ''}" for key in LOST if line[key]]
        if lost:
            return (
                f"No verdict: {line['label']} has {' and '.join(lost)}, and the images that are "
                f"left may be "
                "easier than the others. Run the cell again with retry=true."
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
                f"only cells with "
                f"the same {key} are compared."
            )
    return ""


def _too_few(a: pd.Series, b: pd.Series, n: int) -> str:
    """Why two cells of a table are in no family."""
    if n < FEWEST:
        return (
            f"Fewer than {FEWEST} images cannot say which of {a['label']} and {b['label']} is "
            f"better."
        )
    return (
        "No verdict: most solvers of this table have values of other images, so these two are "
        "not ranked."
    )


def _procedure(verdict: Verdict) -> str:
    """What the verdict rests on."""
    pairs = len(verdict.solvers) * (len(verdict.solvers) - 1) // 2
    of = (
        f"all {pairs} pairs of the {len(verdict.solvers)} solvers of this table"
        if pairs > 1
        else "the one pair there is"
    )
    return (
        f"Verdict, interval and p are of the sign-flip permutation test behind the rank "
        f"letters, over {of}."
    )


def _wins(result: paired.Comparison, direction: str) -> tuple[int, int]:
    """In how many images the first is better, and the second; the lower one where neither direction
    is.
    """
    return (result.higher, result.lower) if direction == "up" else (result.lower, result.higher)


def _p(value: float) -> str:
    return "p < 1e-15" if value < 1e-15 else f"p = {value:.2g}"
