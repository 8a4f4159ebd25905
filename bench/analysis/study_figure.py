"""The figure that a study asks for in its YAML file: ``figure.svg`` and ``figure.png``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from posterior_bench.bench.analysis.bar_figure import bar_figure, has_bars
from posterior_bench.bench.analysis.figures import draw, render
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.study_files import study_settings


def write_figure(study: Path, frame: pd.DataFrame) -> Path | None:
    """Draw the figure that ``study.figure`` asks for as ``figure.svg`` and ``figure.png``.

    ``{x: passes, y: psnr}`` is a scatter plot of two columns, ``{bars: lpips_vgg}`` the bar plot of
    :mod:`bench.analysis.bar_figure`.

    Parameters
    ----------
    study : Path
        The study folder.
    frame : DataFrame
        The leaderboard.

    Returns
    -------
    Path or None
        The PNG; None if no figure is asked for, or the leaderboard lacks its columns.
    """
    settings = study_settings(study)
    axes = settings.get("study", {}).get("figure")
    figure = _figure(frame, axes, settings.get("scale") or {}) if axes else None
    if figure is None:
        return None
    for kind in ("svg", "png"):
        write_atomic(study / f"figure.{kind}", render(figure, kind))
    return study / "figure.png"


def _figure(
    frame: pd.DataFrame, axes: Mapping[str, Any], scale: Mapping[str, Any]
) -> Figure | None:
    """Return the figure with these axes; None if the leaderboard lacks its columns.

    A rehearsal has a stand-in for a metric.
    """
    if "bars" in axes:
        metric = str(axes["bars"])
        metric = scale.get("columns", {}).get(metric, metric)
        return bar_figure(frame, metric) if has_bars(frame, metric) else None
    x, y = str(axes["x"]), str(axes["y"])
    return draw(frame, x, y) if {x, y} <= set(frame.columns) else None
