"""``bench compare``: two solvers of a study on the same images, in a paragraph and a scatter plot a line-up.

A line-up is what both were run on: data, mask, operator, prior and seed. The plot is that of VIPaint's Fig. 10: an
image is a point, and where the two do equally well it lies on the diagonal.
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

from bench import leaderboard, paired
from bench.errors import UserError, unknown
from bench.figures import COLOURS, COLUMNS, render
from bench.leaderboard import IDENTITY, CellRecord
from bench.statistics import Array
from bench.store import read_study, write_atomic
from bench.truth import demand_paired

LINEUP = ["data", "mask", "operator", "prior", "seed"]
GIVEN = ("a", "b", "metric")
WHERE = (*LINEUP, "images", "draws")
USAGE = "bench compare STUDY a=SOLVER b=SOLVER metric=NAME [mask=... data=...]"
SIDE, TITLE = 3.3, 48
"""Inches of a panel's side, and how many characters of a title fit on it."""

_BETTER = {"up": "higher is better", "down": "lower is better", "none": "neither direction is better"}


@dataclass(frozen=True)
class Match:
    """Values ``a`` and ``b`` ``(n,)`` of the same images in one line-up, and what they come to."""

    lineup: str
    a: Array
    b: Array
    result: paired.Comparison


@dataclass(frozen=True)
class Report:
    """What is compared: solvers ``a`` and ``b`` by ``metric``, whose ``card`` says title, direction and unit."""

    a: str
    b: str
    metric: str
    card: Mapping[str, str]
    matches: Sequence[Match]

    def text(self) -> str:
        """One paragraph a line-up, its heading above it."""
        adjusted = paired.holm(np.array([match.result.p_t for match in self.matches]))
        return "\n\n".join(
            f"{match.lineup}\n{self._paragraph(match.result, float(p))}"
            for match, p in zip(self.matches, adjusted, strict=True)
        )

    def _paragraph(self, result: paired.Comparison, adjusted: float) -> str:
        if result.n < 2:
            return self._verdict(result, adjusted)
        unit = f" {self.card['unit']}" if self.card.get("unit") else ""
        wins, losses = _wins(result, self.card["direction"])
        holm = f", {_p(adjusted)} after Holm over {len(self.matches)} line-ups" if len(self.matches) > 1 else ""
        ties = result.n - wins - losses
        found = f"{self.a} wins in {wins} of {result.n} images, {self.b} in {losses}" + (f", {ties} ties" * (ties > 0))
        if self.card["direction"] == "none":
            found = f"{self.a} is lower in {wins} of {result.n} images, {self.b} in {losses}"
        sentences = [
            self._verdict(result, adjusted),
            f"{self._title()} is {result.mean_a:.4g}{unit} for {self.a} and {result.mean_b:.4g}{unit} for {self.b}: "
            f"a mean difference of {result.difference:+.3g}{unit}, "
            f"95 % interval {result.lo:+.3g} to {result.hi:+.3g}, over n = {result.n} images, draws averaged first.",
            f"Paired t-test {_p(result.p_t)}{holm}; Wilcoxon signed-rank test {_p(result.p_wilcoxon)}; both two-sided. "
            f"Effect size d_z = {result.effect_size:+.2f}.",
            f"{found}.",
            f"The smallest true difference that so many images show with 80 % power is {result.detectable:.2g}{unit}.",
        ]
        if result.n >= paired.FEWEST and (result.p_t < paired.ALPHA) != (result.p_wilcoxon < paired.ALPHA):
            sentences.insert(3, "The two tests disagree at 5 %: look at the plot for images that stand apart.")
        return " ".join(sentences)

    def _verdict(self, result: paired.Comparison, adjusted: float) -> str:
        if result.n < paired.FEWEST:
            return f"Fewer than {paired.FEWEST} images cannot say which of {self.a} and {self.b} is better."
        if not adjusted < paired.ALPHA:
            return f"{self.a} and {self.b} cannot be told apart."
        if self.card["direction"] == "none":
            return f"{self.a} is {'lower' if result.difference < 0 else 'higher'} than {self.b}."
        first = (result.difference > 0) == (self.card["direction"] == "up")
        better, worse = (self.a, self.b) if first else (self.b, self.a)
        return f"{better} is better than {worse}."

    def _title(self) -> str:
        return f"{self.card.get('title', self.metric)} ({self.metric}, {_BETTER[self.card['direction']]})"

    def figure(self) -> Figure:
        """A panel a line-up, an image a point; squares of equal axes with the diagonal."""
        columns = min(COLUMNS, len(self.matches))
        rows = math.ceil(len(self.matches) / columns)
        figure = Figure(figsize=(max(SIDE * columns, 4.2), (SIDE + 0.4) * rows + 0.4), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, match in zip(panels, self.matches, strict=False):
            self._panel(panel, match)
        for panel in panels[len(self.matches) :]:
            panel.set_axis_off()
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=7, frameon=False)
        return figure

    def _panel(self, panel: Axes, match: Match) -> None:
        sign = -1 if self.card["direction"] == "up" else 1
        gain = sign * (match.b - match.a)
        word = "lower" if self.card["direction"] == "none" else "better"
        looks = ((gain > 0, "o", COLOURS[0], f"{self.a} {word}"), (gain < 0, "^", COLOURS[1], f"{self.b} {word}"))
        for where, marker, colour, name in looks:
            points = (match.a[where], match.b[where], marker)
            panel.plot(*points, color=colour, markersize=4, alpha=0.75, markeredgewidth=0, label=name)
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
    """Compare as the command line says; writes ``compare_A_B_METRIC.svg`` and ``.png`` into the study folder.

    Returns the report and the path of the PNG. Raises UserError, one line, for whatever does not exist or match.
    """
    study, given = _parsed(arguments)
    try:
        cells = leaderboard.read_cells(study)
    except ValueError as error:
        raise UserError(str(error)) from None
    card = _card(cells, given["metric"])
    lines = _lines(cells, given)
    pairs = _pairs(lines, given["a"], given["b"])
    stale = [c.name for c in cells if given["metric"] in c.stale and any(c.name in pair for pair in pairs)]
    if stale:
        raise UserError(
            f"an earlier version computed '{given['metric']}' of the cell {stale[0]} in another way; run it again in "
            "another out=DIR"
        )
    rows = read_study(study, ["status", "truth", given["metric"]])
    for heading, first, second in pairs:
        demand_paired(rows, heading, (first, given["a"]), (second, given["b"]))
    means = leaderboard.image_means(rows[rows["status"] == "ok"], [given["metric"]])[given["metric"]]
    matches = [_match(means, heading, a, b) for heading, a, b in pairs]
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
    cards = {name: card for cell in cells for name, card in cell.metrics.items() if name not in cell.sets}
    if metric not in cards and any(metric in cell.sets for cell in cells):
        raise UserError(f"'{metric}' is one value from all images, so nothing can be paired. Valid: {', '.join(cards)}")
    if metric not in cards:
        raise unknown("metric", metric, cards)
    return {"direction": "none", **cards[metric]}


def _lines(cells: Sequence[CellRecord], given: Mapping[str, str]) -> pd.DataFrame:
    """Identity, cell and ``label`` of the cells that the settings leave."""
    lines = pd.DataFrame(
        [
            {
                **{key: c.identity[key] for key in IDENTITY},
                **{key: str(c.identity.get(key) or "") for key in ("content", "fingerprint", "variant")},
                "cell": c.name,
            }
            for c in cells
        ]
    )
    lines["label"] = leaderboard.labels(lines)
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
        raise UserError(f"no data, mask, operator, prior and seed have both: {_where(lines, a)}; {_where(lines, b)}")
    if a == b or any(first == second for _, first, second in pairs):
        raise UserError(f"a={a} and b={b} are the same. Valid: {', '.join(sorted({*lines['label']}))}")
    return pairs


def _alike(group: pd.DataFrame, a: str, b: str) -> list[tuple[str, pd.DataFrame]]:
    """A line-up parted by the content of images and prior where both solvers have a cell of the same; else whole."""
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
        valid = ", ".join(f"'{label}' ({images} images x {draws} draws)" for label, images, draws in each)
        several = f"{len(found)} cells match '{solver}' in {heading}"
        raise UserError(f"{several}: name one of {valid}, or narrow them with images= and draws=")
    return str(found["cell"].iloc[0]) if len(found) else None


def _where(lines: pd.DataFrame, solver: str) -> str:
    mine = lines[(lines["label"] == solver) | (lines["solver"] == solver)]
    return f"{solver} has " + ", ".join(dict.fromkeys(" · ".join(map(str, names)) for names in mine[LINEUP].to_numpy()))


def _match(means: pd.Series, heading: str, a: str, b: str) -> Match:
    there = means.index.get_level_values("cell")
    try:
        first, second = paired.pair(*(means[there == cell].droplevel("cell") for cell in (a, b)))
        return Match(heading, first, second, paired.compare(first, second, heading))
    except ValueError as error:
        raise UserError(f"{heading}: {error}") from None


def _wins(result: paired.Comparison, direction: str) -> tuple[int, int]:
    """In how many images the first is better, and the second; the lower one where neither direction is."""
    return (result.higher, result.lower) if direction == "up" else (result.lower, result.higher)


def _p(value: float) -> str:
    return "p < 1e-15" if value < 1e-15 else f"p = {value:.2g}"
