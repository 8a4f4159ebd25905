"""The figures of a study: the cost of a method against its quality, with intervals.

A panel holds the cells that saw the same measurements. A method keeps its colour and marker in all
panels; the colours are those of Okabe and Ito, which people with any colour vision can tell apart.
A method without cost (the exact posterior, for instance) has no place on a logarithmic axis and is
a line across the panel.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from posterior_bench.bench.analysis import point_labels

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


MARKERS = ("o", "s", "^", "D", "v", "P", "X")


GROUP = ["data", "mask", "operator"]


Floats = NDArray[np.float64]


Indices = NDArray[np.intp]


Looks = Mapping[str, Mapping[str, Any]]
"""Marker and colour of every solver."""


POINT: Mapping[str, Any] = {"linestyle": ""}


LINE: Mapping[str, Any] = {"linestyle": "--", "marker": ""}


FRONT: Mapping[str, Any] = {"color": "#777777", "linewidth": 1.2}


COSTS = ("passes", "seconds")
"""What a Pareto front is drawn against."""


COLUMNS, WIDTH, HEIGHT, KEY_HEIGHT = 3, 3.6, 2.7, 0.2
"""Panels side by side at most, the inches of one, and those of a line of the key."""


TITLES = {
    "passes": "network passes per draw (forward + backward)",
    "nfe": "network evaluations per draw (forward alone)",
    "nge": "network gradients per draw",
    "decode": "decodings per draw",
    "seconds_fit": "seconds of fitting per draw",
    "seconds_sample": "seconds of sampling per draw",
    "peak_mib": "peak memory in MiB",
    "seconds": "seconds per draw",
}


def draw(frame: pd.DataFrame, x: str, y: str) -> Figure:
    """Return a figure of leaderboard column ``x`` against the metric ``y``.

    There is a panel per data set, mask and operator. With more solvers than colours, their names
    stand beside the panels in place of a key.
    """
    groups = list(frame.groupby(GROUP, sort=False))
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    looks = looks_of(frame)
    labelled = len(looks) > len(COLOURS)
    figure = _sized(rows, columns, len(looks))
    if labelled:
        height = max(HEIGHT, point_labels.height_for(len(looks)) + 0.8)
        figure.set_size_inches((WIDTH + 0.6) * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for i, (panel, ((data, mask, operator), lines)) in enumerate(zip(panels, groups, strict=False)):
        _panel(panel, lines, x, y, looks)
        panel.set_title(f"{data}\n{mask} · {operator}", fontsize=8, loc="left", parse_math=False)
        if i + columns >= len(groups):
            panel.set_xlabel(axis_title(frame, x), fontsize=8)
        if labelled:
            point_labels.reserve(panel, max(map(str, lines["solver"]), key=len))
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    figure.supylabel(axis_title(frame, y), fontsize=9)
    if labelled:
        parts = zip(panels, (lines for _, lines in groups), strict=False)
        named = {panel: _named_points(panel, lines, x, y) for panel, lines in parts}
        point_labels.label_points(figure, named, looks)
        return figure
    free = {name for name in looks if not (frame.loc[frame["solver"] == name, x] > 0).any()}
    _key(figure, looks, free, columns)
    return figure


def _named_points(
    panel: Axes, lines: pd.DataFrame, x: str, y: str
) -> dict[str, tuple[float, float]]:
    """Return the points of a panel by solver; a line across the panel counts at its right end."""
    right = panel.get_xlim()[1]
    values = lines[[x, y]].to_numpy(float)
    return {
        str(name): (float(cost) if cost > 0 else right, float(value))
        for name, (cost, value) in zip(lines["solver"], values, strict=True)
        if math.isfinite(value)
    }


def pareto(frame: pd.DataFrame, y: str, looks: Looks | None = None) -> Figure:
    """Return the metric ``y`` against passes and seconds, with both fronts, a row per group.

    A method is on the front if no method that costs as much or less does better; a step of the grey
    line is the best that its cost can buy. Methods without cost are lines across, and not on the
    front.

    Parameters
    ----------
    frame : DataFrame
        The leaderboard, or a part of it.
    y : str
        The metric.
    looks : Looks, optional
        Markers and colours of the whole leaderboard, where ``frame`` is a part of it.
    """
    frame = frame.assign(seconds=frame["seconds_fit"] + frame["seconds_sample"])
    groups = list(frame.groupby(GROUP, sort=False))
    names = [*frame["solver"].unique()]
    looks = {name: look for name, look in (looks or looks_of(frame)).items() if name in names}
    figure = _sized(len(groups), len(COSTS), len(looks))
    panels = figure.subplots(len(groups), len(COSTS), squeeze=False, sharey="row")
    direction = frame.attrs["metrics"][y]["direction"]
    for row, ((data, mask, operator), lines) in zip(panels, groups, strict=True):
        for panel, cost in zip(row, COSTS, strict=True):
            _panel(panel, lines, cost, y, looks)
            values = lines[[cost, y]].to_numpy(float)
            steps = values[on_front(values[:, 0], values[:, 1], direction)]
            if len(steps):
                # what the dearest point of the front reaches, more money buys too
                steps = np.append(steps, [[np.nanmax(values[:, 0]), steps[-1, 1]]], axis=0)
                panel.step(*steps.T, where="post", zorder=1, **FRONT)
        row[0].set_title(f"{data}\n{mask} · {operator}", fontsize=8, loc="left", parse_math=False)
    for panel, cost in zip(panels[-1], COSTS, strict=True):
        panel.set_xlabel(axis_title(frame, cost), fontsize=8)
    figure.supylabel(axis_title(frame, y), fontsize=9)
    free = {name for name in looks if not (frame.loc[frame["solver"] == name, "passes"] > 0).any()}
    _key(figure, looks, free, len(COSTS), front=True)
    return figure


def on_front(cost: Floats, value: Floats, direction: str) -> Indices:
    """Return the indices of the points that no other dominates, cheapest first.

    Points without cost, and points that are not finite, are left out. Of equal points the first is
    kept.

    Parameters
    ----------
    cost, value : array (n,)
        The points.
    direction : str
        ``up`` or ``down``.
    """
    gain = value if direction == "up" else -value
    there = np.flatnonzero(np.isfinite(cost) & np.isfinite(value) & (cost > 0))
    there = there[np.lexsort((-gain[there], cost[there]))]
    best = np.concatenate([[-np.inf], np.maximum.accumulate(gain[there])[:-1]])
    return there[gain[there] > best]


def scatter(points: Mapping[str, tuple[Floats, Floats]], x: str, y: str, looks: Looks) -> Figure:
    """Return clouds of points by solver; ``x`` and ``y`` are the titles of the axes.

    Points that are not finite are left out.
    """
    figure = _sized(1, len(COSTS), len(points))
    panel = figure.subplots()
    for name, clouds in points.items():
        kept = np.isfinite(clouds).all(axis=0)
        panel.plot(
            *(cloud[kept] for cloud in clouds), markersize=4, alpha=0.75, **POINT, **looks[name]
        )
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)
    plain_panel(panel)
    _key(figure, {name: looks[name] for name in points}, set(), len(COSTS))
    return figure


def losses(curves: Sequence[tuple[str, Floats]], looks: Looks) -> Figure:
    """Return the loss of every iteration, a panel per cell.

    Thin lines are images, the thick one their mean.
    A start so high that it would flatten the rest runs off the top of its panel.

    Parameters
    ----------
    curves : sequence of (str, array (images, iterations))
        Solvers and the losses of their fits; values that are not finite are left out.
    looks : Looks
        Markers and colours.
    """
    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(WIDTH * max(columns, len(COSTS)), HEIGHT * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (name, values) in zip(panels, curves, strict=False):
        values = np.where(np.isfinite(values), values, np.nan)
        there = np.flatnonzero(~np.isnan(values).all(axis=0))
        panel.plot(values.T, color=looks[name]["color"], linewidth=0.6, alpha=0.6)
        panel.plot(
            there, np.nanmean(values[:, there], axis=0), color=looks[name]["color"], linewidth=1.8
        )
        _cut_start(panel, values[:, there])
        panel.set_title(name, fontsize=8, loc="left", parse_math=False)
        panel.set_xlabel("iteration", fontsize=8)
        plain_panel(panel)
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    figure.supylabel("loss in nats", fontsize=9)
    return figure


def _cut_start(panel: Axes, values: Floats) -> None:
    """Let a high start run off the top: end the panel above the values after the first tenth.

    This is done only where the start is more than twice as high above those as they spread.
    """
    late = values[:, values.shape[1] // 10 :]
    if (
        late.size
        and np.nanmax(values) - np.nanmax(late)
        > 2 * (span := np.nanmax(late) - np.nanmin(late))
        > 0
    ):
        panel.set_ylim(np.nanmin(late) - 0.1 * span, np.nanmax(late) + 0.3 * span)


def looks_of(frame: pd.DataFrame) -> Looks:
    """Return marker and colour of every solver of a leaderboard."""
    names = sorted(frame["solver"].unique())
    return {
        name: {"marker": m, "color": c}
        for name, (m, c) in zip(names, _looks(len(names)), strict=True)
    }


def _sized(rows: int, columns: int, names: int) -> Figure:
    """Return an empty figure for that many panels and a key of that many names."""
    height = HEIGHT * rows + KEY_HEIGHT * math.ceil(names / (2 * columns))
    return Figure(figsize=(WIDTH * columns, height), layout="constrained")


def _key(figure: Figure, looks: Looks, free: set[str], columns: int, front: bool = False) -> None:
    """Put names below the panels; those in ``free`` are lines."""
    handles = [
        Line2D([], [], markersize=5, label=name, **{**look, **(LINE if name in free else POINT)})
        for name, look in looks.items()
    ]
    if front:
        handles.append(Line2D([], [], label="Pareto front", **FRONT))
    key = figure.legend(
        handles=handles, loc="outside lower center", ncols=2 * columns, fontsize=7, frameon=False
    )
    for text in key.get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign


def _panel(panel: Axes, lines: pd.DataFrame, x: str, y: str, looks: Looks) -> None:
    """Draw the points of one group of comparable cells."""
    values = lines[[y, f"{y}_lo", f"{y}_hi"]].to_numpy(float)
    for name, cost, (value, lo, hi) in zip(
        lines["solver"], lines[x].to_numpy(float), values, strict=True
    ):
        if not math.isfinite(value):
            continue
        # an infinite or missing end has no place on paper
        ends = [
            [value - lo if math.isfinite(lo) else 0.0],
            [hi - value if math.isfinite(hi) else 0.0],
        ]
        if cost > 0:
            panel.errorbar(
                [cost], [value], yerr=ends, markersize=5, elinewidth=1, **POINT, **looks[name]
            )
        else:
            panel.axhline(
                value,
                color=looks[name]["color"],
                linewidth=1,
                zorder=0,
                linestyle=LINE["linestyle"],
            )
            panel.axhspan(
                value - ends[0][0],
                value + ends[1][0],
                color=looks[name]["color"],
                alpha=0.12,
                linewidth=0,
            )
    panel.set_xscale("log")
    costs = lines[x].to_numpy(float)
    costs = costs[np.isfinite(costs) & (costs > 0)]
    if len(costs) and costs.max() < 10 * costs.min():
        # less than a decade: a few round numbers, which the usual ticks would write over each other
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > 10 * finite.min():
        panel.set_yscale("log")
    plain_panel(panel)


def plain_panel(panel: Axes) -> None:
    """Give a panel the looks that all figures share: two spines, a light grid, small numbers."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(True, color="#e4e4e4", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", labelsize=7)


def _looks(count: int) -> list[tuple[str, str]]:
    """Return that many different pairs of marker and colour; neighbours differ in both."""
    pairs = [
        (MARKERS[(i + j) % len(MARKERS)], colour)
        for j, _ in enumerate(MARKERS)
        for i, colour in enumerate(COLOURS)
    ]
    return [pairs[i % len(pairs)] for i in range(count)]


def axis_title(frame: pd.DataFrame, name: str) -> str:
    """Return the title of an axis: of a metric, or of a cost."""
    card = frame.attrs["metrics"].get(name)
    if card is None:
        return TITLES.get(name, name)
    better = {"up": ", higher is better", "down": ", lower is better", "none": ""}[
        card["direction"]
    ]
    return f"{card['title']}{' in ' + card['unit'] if card['unit'] else ''}{better}"


def render(figure: Figure, kind: str, transparent: bool = False) -> bytes:
    """Return the bytes of the file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none"}):
        FigureCanvasAgg(figure)
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, transparent=transparent)
    return buffer.getvalue()
