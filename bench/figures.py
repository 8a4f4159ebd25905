"""The figure of a study: what a method costs against how well it does, with intervals.

A panel holds the cells that saw the same measurements. A method keeps its colour and marker in all panels; colours are
those of Okabe and Ito, which people with any colour vision tell apart. What costs nothing has no place on a logarithmic
axis and is a line across the panel: the exact posterior, for instance.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.store import write_atomic

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GROUP = ["data", "mask", "operator"]
Looks = Mapping[str, Mapping[str, Any]]
"""Marker and colour of every solver."""

POINT: Mapping[str, Any] = {"linestyle": ""}
LINE: Mapping[str, Any] = {"linestyle": "--", "marker": ""}
COLUMNS, WIDTH, HEIGHT, KEY_HEIGHT = 3, 3.6, 2.7, 0.2
"""Panels side by side at most, the inches of one, and those of a line of the key."""

TITLES = {
    "nfe": "network evaluations per draw",
    "nge": "network gradients per draw",
    "decode": "decodings per draw",
    "seconds_fit": "seconds of fitting per draw",
    "seconds_sample": "seconds of sampling per draw",
    "peak_mib": "peak memory in MiB",
}


def write(study: Path, frame: pd.DataFrame) -> Path | None:
    """Draw what ``study.figure`` of the study's configuration asks for as ``figure.svg`` and ``figure.png``.

    ``frame`` is the leaderboard. Returns the path of the PNG; None where no figure is asked for, and where the study
    has no such columns.
    """
    path = study / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    axes = config.get("study", {}).get("figure")
    if not axes or not {axes["x"], axes["y"]} <= set(frame.columns):
        return None
    figure = draw(frame, str(axes["x"]), str(axes["y"]))
    for kind in ("svg", "png"):
        write_atomic(study / f"figure.{kind}", _render(figure, kind))
    return study / "figure.png"


def draw(frame: pd.DataFrame, x: str, y: str) -> Figure:
    """A figure of leaderboard column ``x`` against the metric ``y``, a panel per data set, mask and operator."""
    groups = list(frame.groupby(GROUP, sort=False))
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    names = sorted(frame["solver"].unique())
    looks: Looks = {name: {"marker": m, "color": c} for name, (m, c) in zip(names, _looks(len(names)), strict=True)}
    keys = 2 * columns
    height = HEIGHT * rows + KEY_HEIGHT * math.ceil(len(names) / keys)
    figure = Figure(figsize=(WIDTH * columns, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for i, (panel, ((data, mask, operator), lines)) in enumerate(zip(panels, groups, strict=False)):
        _panel(panel, lines, x, y, looks)
        panel.set_title(f"{data}\n{mask} · {operator}", fontsize=8, loc="left")
        if i + columns >= len(groups):
            panel.set_xlabel(_title(frame, x), fontsize=8)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    figure.supylabel(_title(frame, y), fontsize=9)
    free = {name for name in names if not (frame.loc[frame["solver"] == name, x] > 0).any()}
    handles = [
        Line2D([], [], markersize=5, label=name, **{**looks[name], **(LINE if name in free else POINT)})
        for name in names
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=keys, fontsize=7, frameon=False)
    return figure


def _panel(panel: Axes, lines: pd.DataFrame, x: str, y: str, looks: Looks) -> None:
    """The points of one group of comparable cells."""
    values = lines[[y, f"{y}_lo", f"{y}_hi"]].to_numpy(float)
    for name, cost, (value, lo, hi) in zip(lines["solver"], lines[x].to_numpy(float), values, strict=True):
        if not math.isfinite(value):
            continue
        # an infinite or missing end has no place on paper
        ends = [[value - lo if math.isfinite(lo) else 0.0], [hi - value if math.isfinite(hi) else 0.0]]
        if cost > 0:
            panel.errorbar([cost], [value], yerr=ends, markersize=5, elinewidth=1, **POINT, **looks[name])
        else:
            panel.axhline(value, color=looks[name]["color"], linewidth=1, zorder=0, linestyle=LINE["linestyle"])
            panel.axhspan(value - ends[0][0], value + ends[1][0], color=looks[name]["color"], alpha=0.12, linewidth=0)
    panel.set_xscale("log")
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > 10 * finite.min():
        panel.set_yscale("log")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(True, color="#e4e4e4", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", labelsize=7)


def _looks(count: int) -> list[tuple[str, str]]:
    """That many different pairs of marker and colour; neighbours differ in both."""
    pairs = [
        (MARKERS[(i + j) % len(MARKERS)], colour) for j, _ in enumerate(MARKERS) for i, colour in enumerate(COLOURS)
    ]
    return [pairs[i % len(pairs)] for i in range(count)]


def _title(frame: pd.DataFrame, name: str) -> str:
    card = frame.attrs["metrics"].get(name)
    if card is None:
        return TITLES.get(name, name)
    better = {"up": ", higher is better", "down": ", lower is better", "none": ""}[card["direction"]]
    return f"{card['title']}{' in ' + card['unit'] if card['unit'] else ''}{better}"


def _render(figure: Figure, kind: str) -> bytes:
    """The file's bytes; the same figure gives the same ones."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none"}):
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()
