"""Names of points right of a panel, each at the height of its point as far as the others allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posterior_bench.bench.analysis.label_places import spread

SIZE, LEADING = 5.5, 1.2
"""Points of a label, and the height of its line over that."""

PLACE = 1.05
"""Where labels begin, in widths of the panel."""


def height_for(labels: int) -> float:
    """Return the inches that so many labels need below each other."""
    return labels * SIZE * LEADING / 72


def reserve(panel: Axes, longest: str) -> None:
    """Keep room at the right of a panel for the longest label, in a constrained layout."""
    panel.text(PLACE, 0.5, longest, fontsize=SIZE, alpha=0, transform=panel.transAxes)


def label_points(
    figure: Figure,
    panels: Mapping[Axes, Mapping[str, tuple[float, float]]],
    looks: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the name of every point beside its panel, with a line to the point.

    The layout of the figure is computed here, and holds from then on.

    Parameters
    ----------
    figure : Figure
        The figure.
    panels : mapping of Axes to mapping
        The points of each panel by name, in the units of its axes.
    looks : mapping of str to mapping
        The colours of the points by name.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel, points in panels.items():
        _label_panel(panel, points, looks)


def _label_panel(
    panel: Axes,
    points: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Mapping[str, Any]],
) -> None:
    box = panel.get_window_extent()
    line = SIZE * LEADING * panel.figure.dpi / 72
    places = panel.transData.transform(np.array([*points.values()], dtype=float).reshape(-1, 2))
    room = max(0.0, len(points) * line - box.height) / 2
    heights = np.full(len(points), line)
    centres = spread(places[:, 1], heights, box.y0 - room, box.y1 + room)
    for name, (x, y), centre in zip(points, places, centres, strict=True):
        panel.annotate(
            name,
            xy=((x - box.x0) / box.width, (y - box.y0) / box.height),
            xytext=(PLACE, (centre - box.y0) / box.height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=SIZE,
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": looks[name]["color"],
                "linewidth": 0.4,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )
