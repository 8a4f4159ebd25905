"""The figure of docs/faces.md: lost variants against impossible faces, a panel per mask.

Both axes are errors, so the lower left corner is the posterior itself. Bars are 95 % intervals of
means over images. Dotted lines are the levels of exact draws and of draws of the prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from posterior_bench.bench.analysis.figures import (
    COLUMNS,
    HEIGHT,
    POINT,
    WIDTH,
    Looks,
    looks_of,
    plain_panel,
)

X, Y = "face_distance", "face_weights_error"
TITLES = {
    X: "distance to the nearest possible face, lower is better",
    Y: "error of the variants' frequencies, lower is better",
}
REFERENCE: Looks = {
    "exact": {"color": "#000000", "marker": "*"},
    "prior": {"color": "#808080", "marker": "X"},
}
"""The looks of what is no competitor."""
LEVEL: Mapping[str, Any] = {"linewidth": 0.8, "linestyle": ":", "zorder": 0}


def faces_scatter(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Return the figure.

    Parameters
    ----------
    panels : Mapping[str, DataFrame]
        By title, a line per solver (the index). For both metrics there are columns with the mean
        (``face_distance``) and its interval (``face_distance_lo``, ``face_distance_hi``).
    """
    solvers = pd.DataFrame({"solver": [name for each in panels.values() for name in each.index]})
    ranked = looks_of(solvers[~solvers["solver"].isin([*REFERENCE])])
    looks = {name: REFERENCE[name] for name in REFERENCE if name in {*solvers["solver"]}} | ranked
    columns = min(COLUMNS, len(panels))
    rows = math.ceil((len(panels) + 1) / columns)  # the key has a place of its own
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for panel, (title, points) in zip(places, panels.items(), strict=False):
        _panel(panel, points, looks)
        panel.set_title(title, fontsize=8, loc="left", parse_math=False)
    for panel in places[len(panels) :]:
        panel.set_axis_off()
    for i in range(columns):  # the numbers of a column stand below its last panel
        places[i : len(panels) : columns][-1].tick_params(labelbottom=True)
    _key(places[len(panels)], looks)
    figure.supxlabel(TITLES[X], fontsize=9)
    figure.supylabel(TITLES[Y], fontsize=9)
    return figure


def _panel(panel: Axes, points: pd.DataFrame, looks: Looks) -> None:
    for name, point in points.iterrows():
        ends = [[[point[m] - point[f"{m}_lo"]], [point[f"{m}_hi"] - point[m]]] for m in (X, Y)]
        panel.errorbar(
            [point[X]],
            [point[Y]],
            xerr=ends[0],
            yerr=ends[1],
            markersize=5,
            elinewidth=0.8,
            **POINT,
            **looks[str(name)],
        )
        if name in REFERENCE:
            panel.axhline(point[Y], color=looks[str(name)]["color"], **LEVEL)
    plain_panel(panel)


def _key(place: Axes, looks: Looks) -> None:
    handles = [
        Line2D([], [], markersize=6, label=name, **POINT, **look) for name, look in looks.items()
    ]
    place.legend(handles=handles, loc="center", fontsize=8, frameon=False)
