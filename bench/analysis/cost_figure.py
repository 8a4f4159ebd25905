"""Quality against one cost, a labelled point per solver.

The solvers that matter have a colour, a marker, an interval and a bold label; the others are grey.
Labels stand right of the panel (:mod:`bench.analysis.label_places`), and a dotted line leads from a
point to the edge: what a draw costs, a larger budget pays for too. A solver without cost is a line
across.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from posterior_bench.bench.analysis.figures import (
    COLOURS,
    FRONT,
    MARKERS,
    on_front,
    plain_panel,
)
from posterior_bench.bench.analysis.frontier_figure import GREY, GREY_TEXT, Size, write_labels
from posterior_bench.bench.analysis.statistics import Array

HALF = Size(4.5, 3.6, 7.5, 6.5, names=True)
"""Two such figures stand side by side on a wide page."""

_LINE = 0.125
"""Inches of a label."""


@dataclass(frozen=True)
class Axis:
    """An axis of the figure.

    Parameters
    ----------
    title : str
        Its title.
    direction : {'up', 'down'}, default 'down'
        The better end.
    linear : bool, default False
        Whether values that span decades have a linear axis too.
    """

    title: str
    direction: str = "down"
    linear: bool = False


def cost_figure(points: pd.DataFrame, cost: str, quality: Axis, bold: Sequence[str]) -> Figure:
    """Return the figure.

    Parameters
    ----------
    points : DataFrame
        ``solver``, ``cost`` (0 = free), ``value``, ``lo`` and ``hi``, a line per solver. Lines
        whose value or cost is not finite are left out.
    cost : str
        The title of the cost axis, which is logarithmic.
    quality : Axis
        The axis of the values.
    bold : sequence of str
        The solvers that get a colour, most important first; so many as there are colours.
    """
    points = points[np.isfinite(points[["cost", "value"]].to_numpy(float)).all(axis=1)]
    named = [name for name in bold if name in {*points["solver"]}][: len(COLOURS)]
    looks = {name: {"color": COLOURS[i], "marker": MARKERS[i]} for i, name in enumerate(named)}
    figure, panel = _sized(points)
    _scales(panel, points, quality)
    front = on_front(
        points["cost"].to_numpy(float), points["value"].to_numpy(float), quality.direction
    )
    if len(front):
        steps = points[["cost", "value"]].to_numpy(float)[front]
        steps = np.append(steps, [[panel.get_xlim()[1], steps[-1, 1]]], axis=0)
        panel.step(*steps.T, where="post", zorder=1, **FRONT)
    ends = {}
    for line in points.to_dict("records"):
        name = str(line["solver"])
        _point(panel, line, looks.get(name))
        ends[name] = (panel.get_xlim()[1], float(line["value"]))
    panel.set_xlabel(cost, fontsize=HALF.bold)
    panel.set_ylabel(quality.title, fontsize=HALF.bold)
    write_labels(panel, ends, looks, HALF)
    return figure


def _sized(points: pd.DataFrame) -> tuple[Figure, Axes]:
    """Return a figure that is high enough for all labels, with room for them on the right."""
    height = max(HALF.height, 0.75 + _LINE * len(points))
    room = 0.3 + 0.62 * HALF.bold / 72 * max(map(len, points["solver"]), default=0)
    figure = Figure(figsize=(HALF.width, height))
    left, bottom, top = 0.68, 0.45, 0.12
    width = max(0.35, 1 - (left + min(room, 2.2)) / HALF.width)
    place = (left / HALF.width, bottom / height, width, 1 - (bottom + top) / height)
    return figure, figure.add_axes(place)


def _scales(panel: Axes, points: pd.DataFrame, quality: Axis) -> None:
    """Fix both axes, so that the better values are at the top."""
    costs = points.loc[points["cost"] > 0, "cost"].to_numpy(float)
    panel.set_xscale("log")
    if len(costs):
        panel.set_xlim(costs.min() / 1.3, costs.max() * 1.25)
    if len(costs) and costs.max() < 30 * costs.min():
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter("{x:g}")
    values = points[["value", "lo", "hi"]].to_numpy(float)
    values = values[np.isfinite(values)]
    decades = len(values) and values.min() > 0 and values.max() > 10 * values.min()
    if decades and not quality.linear:
        panel.set_yscale("log")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        panel.yaxis.set_major_locator(MaxNLocator(6))
    if len(values):
        scale = panel.yaxis.get_transform()
        low, high = scale.transform(np.array([values.min(), values.max()]))
        room = 0.05 * (high - low) or 0.5
        ends = scale.inverted().transform(np.array([low - room, high + room]))
        panel.set_ylim(*(ends if quality.direction == "up" else ends[::-1]))
    panel.yaxis.set_major_formatter("{x:g}")
    plain_panel(panel)


def _point(panel: Axes, line: Mapping[Any, Any], look: Mapping[str, str] | None) -> None:
    """Draw a solver: its point, its interval if it has a colour, and the way to its label."""
    colour = look["color"] if look else GREY
    cost, value = float(line["cost"]), float(line["value"])
    left, right = panel.get_xlim()
    panel.plot(
        [cost if cost > 0 else left, right],
        [value, value],
        color=colour,
        linewidth=0.9 if look else 0.6,
        linestyle=(0, (1, 2)) if cost > 0 else "--",
        zorder=2 if look else 1,
    )
    if not cost > 0:
        return
    ends: Array = np.array([line["lo"], line["hi"]], dtype=float)
    if look and np.isfinite(ends).all():
        panel.vlines(cost, *ends, color=colour, linewidth=1, zorder=3)
    panel.plot(
        [cost],
        [value],
        linestyle="",
        marker=look["marker"] if look else "o",
        markersize=5.5 if look else 3.5,
        color=colour if look else GREY_TEXT,
        zorder=4 if look else 2,
    )
