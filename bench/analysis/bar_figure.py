"""The bar plot of a study: the least, mean and greatest value over the draws of an image.

VIPaint's Fig. 6 shows these three numbers for every method. A panel holds the cells that saw the
same measurements. A bar is the mean over images, its line the 95 % interval of that mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posterior_bench.bench.analysis.figures import GROUP, HEIGHT, WIDTH, plain_panel

BARS: Mapping[str, tuple[str, str]] = {
    "min": ("least", "#56b4e9"),
    "mean": ("mean", "#0072b2"),
    "max": ("greatest", "#d55e00"),
}
"""Name and colour of each bar, by the end of the metric's id (:mod:`metrics.over_draws`)."""

COLUMNS = 2
"""Panels side by side at most; method names need more room than the points of a scatter plot."""


def has_bars(frame: pd.DataFrame, metric: str) -> bool:
    """Return whether a leaderboard has the three columns of ``metric`` that the bars need."""
    return {f"{metric}_{end}" for end in BARS} <= set(frame.columns)


def bar_figure(frame: pd.DataFrame, metric: str) -> Figure:
    """Return the bars of every method, a panel per data set, mask and operator.

    A method whose mean is not finite is left out.

    Parameters
    ----------
    frame : DataFrame
        The leaderboard, with the columns ``m_min``, ``m_mean``, ``m_max`` and their intervals.
    metric : str
        The metric ``m`` that is reduced over draws, such as ``lpips_vgg``.
    """
    groups = list(frame.groupby(GROUP, sort=False))
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    size = (1.4 * WIDTH * columns, 1.2 * HEIGHT * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, ((data, mask, operator), lines) in zip(panels, groups, strict=False):
        lines = lines[np.isfinite(lines[f"{metric}_mean"].to_numpy(float))]
        _panel(panel, lines.sort_values(f"{metric}_mean", kind="stable"), metric)
        panel.set_title(f"{data}\n{mask} · {operator}", fontsize=8, loc="left", parse_math=False)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    card = frame.attrs["metrics"][f"{metric}_mean"]
    better = {"up": ", higher is better", "down": ", lower is better"}.get(card["direction"], "")
    draws = "/".join(str(count) for count in sorted(frame["draws"].unique()))
    figure.supylabel(f"{metric} over {draws} draws of an image{better}", fontsize=8)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def _panel(panel: Axes, lines: pd.DataFrame, metric: str) -> None:
    """Draw three bars for each method of one group of comparable cells."""
    places, width = np.arange(len(lines)), 0.8 / len(BARS)
    for i, (end, (name, colour)) in enumerate(BARS.items()):
        value, low, high = (
            lines[f"{metric}_{end}{side}"].to_numpy(float) for side in ("", "_lo", "_hi")
        )
        # A missing or infinite end of an interval has no place on paper.
        ends = [np.nan_to_num(x, nan=0.0, posinf=0.0) for x in (value - low, high - value)]
        panel.bar(
            places + (i - 1) * width,
            value,
            width,
            yerr=np.maximum(ends, 0.0),
            color=colour,
            error_kw={"elinewidth": 0.8},
            label=name,
        )
    panel.set_xlim(-0.6, max(len(lines) - 0.4, 0.6))
    panel.set_xticks(places, lines["solver"], rotation=30, ha="right")
    plain_panel(panel)
    panel.grid(False, axis="x")
