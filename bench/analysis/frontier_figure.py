"""The figure of a problem: quality against network passes, a curve per solver, labels at its end.

Solvers that were at the front of a budget have a colour, a marker, bars for their intervals and a
bold label. All others are thin and grey, with small labels. A point is filled, or dark, where it is
on the front of its budget, and a cross where it was not compared. What costs nothing, or has one
point, is drawn on to the right edge, because a larger budget pays for it too. An SVG says the name
of a curve, and its numbers, where the mouse rests on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from posterior_bench.bench.analysis.figures import COLOURS, MARKERS, TITLES, plain_panel, render
from posterior_bench.bench.analysis.frontier import Frontier, amount
from posterior_bench.bench.analysis.label_places import spread
from posterior_bench.bench.analysis.tables import significant

GREY, GREY_TEXT = "#c4c4c4", "#707070"
TEXTS = dict(zip(COLOURS, COLOURS, strict=True)) | {
    "#cc79a7": "#a8507f",
    "#e69f00": "#9a6a00",
    "#56b4e9": "#2478ad",
}
"""The colours of labels: the light ones are darker as text."""

KEY = "filled: the best of a budget, or not told apart from it; bars: 95 % intervals"

DODGE = 0.018
"""Bars of neighbouring colours stand so far apart, as a share of their passes."""


@dataclass(frozen=True)
class Size:
    """The measures of a figure, in inches and points.

    Parameters
    ----------
    width, height : float
        Inches.
    bold, small : float
        Points of the labels at the front, and of the others.
    names : bool
        Whether the other solvers are labelled too.
    """

    width: float
    height: float
    bold: float
    small: float
    names: bool


FULL = Size(7.0, 4.6, 7.5, 5.5, names=True)
COLUMN = Size(3.4, 3.4, 6.5, 5.0, names=False)
"""The width of a page, and that of a column of a paper."""


def frontier_figure(found: Frontier, problem: str, size: Size = FULL) -> Figure:
    """Return the figure of one problem."""
    points = found.points[found.points["problem"] == problem]
    points = points[np.isfinite(points["value"])]
    coloured = front_solvers(found, problem)
    figure = Figure(figsize=(size.width, size.height))
    panel = _panel(figure, points, size)
    looks = {name: {"color": COLOURS[i], "marker": MARKERS[i]} for i, name in enumerate(coloured)}
    _scales(panel, points)
    panel.set_xlabel(TITLES["passes"], fontsize=size.bold)
    figure.text(0.06 / size.width, 0.05 / size.height, KEY, fontsize=size.small, color=GREY_TEXT)
    panel.set_ylabel(_title(found.card), fontsize=size.bold)
    panel.set_title(problem, fontsize=size.bold, loc="left", parse_math=False)
    ends = {}
    for name, curve in points.groupby("solver", sort=True):
        ends[str(name)] = _curve(panel, str(name), curve, looks.get(str(name)))
    write_labels(panel, ends, looks, size)
    return figure


def front_solvers(found: Frontier, problem: str) -> list[str]:
    """Return the solvers that get a colour, at most one for each of them.

    First come those that are the best at some budget, then those on the front of most budgets, the
    one with the smallest difference from the best first.
    """
    best = found.best[found.best["problem"] == problem]
    judged = best.assign(best=best["place"] == "best", fronts=1)
    total = judged.groupby("solver").agg(
        {"best": "sum", "fronts": "sum", "difference": lambda column: column.abs().mean()}
    )
    total = total.assign(wins=total["best"] > 0)
    order = total.sort_values(["wins", "fronts", "difference"], ascending=[False, False, True])
    return [str(name) for name in order.index[: len(COLOURS)]]


def with_titles(svg: bytes, points: pd.DataFrame) -> bytes:
    """Return an SVG whose curves say their name and numbers where the mouse rests on them."""
    said = {
        _gid(str(name)): f"{name}: "
        + ", ".join(
            f"{significant(value)} at {significant(passes)}"
            for value, passes in zip(curve["value"], curve["passes"], strict=True)
        )
        for name, curve in points.groupby("solver")
    }

    def title(found: re.Match[str]) -> str:
        text = said.get(found[1], "")
        return f"{found[0]}\n<title>{escape(text)}</title>" if text else found[0]

    return re.sub(r'<g id="(curve-[^"]+)">', title, svg.decode()).encode()


def files(found: Frontier, problem: str, stem: str) -> dict[str, bytes]:
    """Return the figures of a problem by the names of their files, for a page and for a column."""
    points = found.points[found.points["problem"] == problem]
    drawn = {}
    for end, size in (("", FULL), ("_column", COLUMN)):
        figure = frontier_figure(found, problem, size)
        drawn[f"{stem}{end}.png"] = render(figure, "png")
        drawn[f"{stem}{end}.svg"] = with_titles(render(figure, "svg"), points)
    return drawn


# -- one panel -------------------------------------------------------------------------------------


def _panel(figure: Figure, points: pd.DataFrame, size: Size) -> Axes:
    """Return the axes, with room for the longest label on the right."""
    longest = max(map(len, points["solver"]), default=0)
    room = 0.2 + 0.7 * size.bold / 72 * longest
    left, bottom, top = 0.58 * size.bold / 7, 0.58, 0.26
    return figure.add_axes(
        (
            left / size.width,
            bottom / size.height,
            1 - (left + room) / size.width,
            1 - (bottom + top) / size.height,
        )
    )


def _scales(panel: Axes, points: pd.DataFrame) -> None:
    """Fix both axes: passes by factors of two, the metric so that no point is lost."""
    budgets = sorted({amount(budget) for budget in points["budget"] if budget})
    costs = points.loc[points["passes"] > 0, "passes"]
    ticks = budgets or [*np.unique(costs)]
    panel.set_xscale("log")
    panel.set_xlim(
        min([*costs, *ticks], default=1) / 1.12, max([*costs, *ticks], default=10) * 1.06
    )
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    panel.xaxis.set_minor_locator(NullLocator())
    values = points["value"].to_numpy(float)
    low, high, usual = values.min(), values.max(), float(np.median(np.abs(values)))
    if low > 0 and high > 10 * low:
        panel.set_yscale("log")
        # the usual ticks say powers of ten, which the margin has no room for
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_minor_formatter(NullFormatter())
    elif high > 20 * usual > 0:
        panel.set_yscale("symlog", linthresh=usual)
    # the points fill the panel; an interval may run off it
    scale = panel.yaxis.get_transform()
    ends = scale.transform(np.array([low, high]))
    room = 0.06 * (ends[1] - ends[0]) or 1.0
    panel.set_ylim(*scale.inverted().transform(ends + np.array([-room, room])))
    panel.yaxis.set_major_formatter("{x:g}")
    plain_panel(panel)


def _title(card: Mapping[str, str]) -> str:
    unit = f" in {card['unit']}" if card.get("unit") else ""
    better = {"up": "higher is better", "down": "lower is better"}[card["direction"]]
    return f"{card['title']}{unit}, {better}"


def _gid(name: str) -> str:
    return "curve-" + re.sub(r"[^A-Za-z0-9_.=-]+", "-", name)


def _curve(
    panel: Axes, name: str, curve: pd.DataFrame, look: Mapping[str, str] | None
) -> tuple[float, float]:
    """Draw a solver, and return the point that its label belongs to."""
    curve = curve.sort_values("passes")
    passes, values = curve["passes"].to_numpy(float), curve["value"].to_numpy(float)
    colour = look["color"] if look else GREY
    style: dict[str, Any] = {
        "color": colour,
        "linewidth": 1.5 if look else 0.7,
        "zorder": 3 if look else 1,
    }
    left, right = panel.get_xlim()
    paid = passes > 0
    (line,) = panel.plot(passes[paid], values[paid], **style)
    line.set_gid(_gid(name))
    _points(panel, curve[paid], look)
    alone = bool((curve["budget"] == "").all())
    if alone:
        start = passes[0] if paid[0] else left
        panel.plot([start, right], [values[0]] * 2, linestyle=(0, (1, 2)), **style)
    if look:
        _bars(panel, curve[paid], COLOURS.index(colour), colour)
    return (right if alone else float(passes[-1]), float(values[-1]))


def _points(panel: Axes, curve: pd.DataFrame, look: Mapping[str, str] | None) -> None:
    """Draw the points of a solver: filled on a front, hollow elsewhere, a cross if not compared."""
    colour, marker, size = (look["color"], look["marker"], 4.5) if look else (GREY, ".", 3.5)
    front, ranked = curve["front"].to_numpy(bool), curve["ranked"].to_numpy(bool)
    dark = colour if look else GREY_TEXT
    for kept, shape, edge, face in (
        (front, marker, dark, dark),
        (ranked & ~front, marker, colour, "white" if look else colour),
        (~ranked, "x", dark, dark),
    ):
        panel.plot(
            curve["passes"][kept],
            curve["value"][kept],
            linestyle="",
            marker=shape,
            markersize=size,
            markeredgecolor=edge,
            markerfacecolor=face,
            zorder=4 if look else 1.5,
        )


def _bars(panel: Axes, curve: pd.DataFrame, place: int, colour: str) -> None:
    """Draw the intervals; those of other solvers with the same passes stand beside them."""
    ends = curve[["lo", "hi"]].to_numpy(float)
    there = np.isfinite(ends).all(axis=1)
    x = curve["passes"].to_numpy(float)[there] * (1 + DODGE * (place - (len(COLOURS) - 1) / 2))
    panel.vlines(x, *ends[there].T, color=colour, linewidth=0.8, alpha=0.7, zorder=2)


def write_labels(
    panel: Axes,
    ends: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Mapping[str, str]],
    size: Size,
) -> None:
    """Write names right of a panel, each as near its point as the others allow.

    Parameters
    ----------
    panel : Axes
        The panel; its limits must not change any more.
    ends : mapping of str to (float, float)
        The point of each name, in data coordinates.
    looks : mapping
        The colour of the names that are bold; the others are small and grey.
    size : Size
        The sizes of the letters.
    """
    box = panel.get_window_extent()
    dots = panel.figure.dpi / 72
    shown = [name for name in ends if size.names or name in looks]
    heights = np.array(
        [1.22 * dots * (size.bold if name in looks else size.small) for name in shown]
    )
    low, high = box.y0 - 12 * dots, box.y1 + 4 * dots
    shown, heights = _fitting(shown, heights, looks, high - low)
    points = np.array([panel.transData.transform(ends[name]) for name in shown]).reshape(-1, 2)
    for name, end, centre in zip(
        shown, points, spread(points[:, 1], heights, low, high), strict=True
    ):
        colour = looks[name]["color"] if name in looks else GREY
        panel.annotate(
            name,
            xy=((end[0] - box.x0) / box.width, (end[1] - box.y0) / box.height),
            xytext=(1.045, (centre - box.y0) / box.height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=TEXTS.get(colour, GREY_TEXT),
            fontsize=size.bold if name in looks else size.small,
            fontweight="bold" if name in looks else "normal",
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6 if name in looks else 0.35,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _fitting(
    names: Sequence[str], heights: np.ndarray, looks: Mapping[str, object], room: float
) -> tuple[list[str], np.ndarray]:
    """Leave the names of grey curves out if there is no room for all of them."""
    if heights.sum() <= room:
        return [*names], heights
    kept = [i for i, name in enumerate(names) if name in looks]
    return [names[i] for i in kept], heights[kept]
