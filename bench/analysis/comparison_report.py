"""The comparison of two solvers as text and as a scatter plot.

The plot is that of VIPaint's Fig. 10: an image is a point, and where the two do equally well it
lies on the diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posterior_bench.bench.analysis import families, paired
from posterior_bench.bench.analysis.figures import COLOURS, COLUMNS
from posterior_bench.bench.analysis.matches import Match, Verdict

SIDE, TITLE = 3.3, 48
"""Inches of a panel's side, and how many characters of a title fit on it."""


_BETTER = {
    "up": "higher is better",
    "down": "lower is better",
    "none": "neither direction is better",
}


@dataclass(frozen=True)
class ComparisonReport:
    """The comparison of solvers ``a`` and ``b`` by a metric.

    Parameters
    ----------
    a, b : str
        The solvers.
    metric : str
        Id of the metric.
    card : mapping of str to str
        Title, direction and unit of the metric.
    matches : sequence of Match
        The line-ups that have both solvers.
    margin : float or None, default None
        The largest difference that counts as none, if the report says whether the two are equal.
    """

    a: str
    b: str
    metric: str
    card: Mapping[str, str]
    matches: Sequence[Match]
    margin: float | None = None

    def text(self) -> str:
        """Return one paragraph per line-up, its heading above it."""
        return "\n\n".join(f"{match.lineup}\n{self._paragraph(match)}" for match in self.matches)

    def _paragraph(self, match: Match) -> str:
        result, unit = match.result, self._unit()
        if result.n < 2:
            return match.why
        sentences = [self._verdict(match), self._means(match)]
        if match.verdict:
            sentences += [*self._equality(match.verdict), _procedure(match.verdict)]
            sentences += self._alone(result)
        sentences.append(self._wins(result))
        if match.verdict:
            sentences.append(
                "With so many images the t-test of this pair alone finds a true difference of "
                f"{result.detectable:.2g}{unit} in 80 % of studies; over all pairs of a table it "
                "takes more."
            )
        return " ".join(sentences)

    def _unit(self) -> str:
        return f" {self.card['unit']}" if self.card.get("unit") else ""

    def _means(self, match: Match) -> str:
        """Return both means and their difference, with its interval where there is one."""
        result, unit = match.result, self._unit()
        found = (
            f"{self._title()} is {result.mean_a:.4g}{unit} for {self.a} and "
            f"{result.mean_b:.4g}{unit} for {self.b}: a mean difference of "
            f"{result.difference:+.3g}{unit}"
        )
        if match.verdict:
            found += (
                f", simultaneous 95 % interval [{match.verdict.lo:+.3g}, {match.verdict.hi:+.3g}], "
                f"adjusted {_p(match.verdict.p)}"
            )
        if match.left_out:
            return (
                f"On the {result.n} images that both have, which may be easier than the others: "
                f"{found}."
            )
        return f"{found}, over n = {result.n} images, draws averaged first."

    def _alone(self, result: paired.Comparison) -> list[str]:
        """Return the tests of this pair alone."""
        tests = {
            "sign-flip": result.p_flip,
            "t-test": result.p_t,
            "Wilcoxon signed-rank test": result.p_wilcoxon,
        }
        sentences = [
            "Tests of this pair alone, two-sided, not adjusted: "
            f"{', '.join(f'{name} {_p(p)}' for name, p in tests.items())}. Effect size d_z = "
            f"{result.effect_size:+.2f}."
        ]
        if len({p < families.ALPHA for p in tests.values()}) > 1:
            sentences.append("These tests disagree at 5 %: look at the plot for outliers.")
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
        if not match.verdict.differ and match.verdict.equal:
            return f"{self.a} and {self.b} are equal within {self.margin:g}{self._unit()}."
        if not match.verdict.differ:
            open_ = "" if self.margin is None else ", and they are not shown to be equal"
            return f"{self.a} and {self.b} cannot be told apart{open_}."
        if self.card["direction"] == "none":
            return (
                f"{self.a} is {'lower' if match.result.difference < 0 else 'higher'} than {self.b}."
            )
        first = (match.result.difference > 0) == (self.card["direction"] == "up")
        better, worse = (self.a, self.b) if first else (self.b, self.a)
        little = f", by less than {self.margin:g}{self._unit()}" if match.verdict.equal else ""
        return f"{better} is better than {worse}{little}."

    def _equality(self, verdict: Verdict) -> list[str]:
        """Return what the test of equality rests on, if there is a margin."""
        if self.margin is None:
            return []
        inside = "lies" if verdict.equal else "does not lie"
        return [
            f"Equality at 5 %: the simultaneous 90 % interval [{verdict.equal_lo:+.3g}, "
            f"{verdict.equal_hi:+.3g}] {inside} within ±{self.margin:g}{self._unit()}."
        ]

    def _title(self) -> str:
        return (
            f"{self.card.get('title', self.metric)} ({self.metric}, "
            f"{_BETTER[self.card['direction']]})"
        )

    def figure(self) -> Figure:
        """Return a panel per line-up with a point per image, equal axes and the diagonal."""
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


def _procedure(verdict: Verdict) -> str:
    """Return the test that the verdict rests on."""
    pairs = len(verdict.solvers) * (len(verdict.solvers) - 1) // 2
    of = (
        f"all {pairs} pairs of the {len(verdict.solvers)} solvers of this table"
        if pairs > 1
        else "the one pair there is"
    )
    return (
        "Verdict, interval and p are of the sign-flip permutation test behind the rank letters, "
        f"over {of}."
    )


def _wins(result: paired.Comparison, direction: str) -> tuple[int, int]:
    """Return in how many images the first is better, and the second; lower, without a direction."""
    return (result.higher, result.lower) if direction == "up" else (result.lower, result.higher)


def _p(value: float) -> str:
    return "p < 1e-15" if value < 1e-15 else f"p = {value:.2g}"
