"""The figures of a report: costs and coverage of the mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import figures
from posterior_bench.bench.pages.report_data import Group, ReportData
from posterior_bench.bench.pages.thumbnails import data_uri
from posterior_bench.bench.store.atomic import write_atomic

COVERED = 2000
"""Images whose masks are drawn again for the plot against mask coverage, at most."""


def plots_of(study: ReportData, means: pd.DataFrame, metric: str) -> list[dict[str, str]]:
    """Return per measurement the figures of costs and of coverage as data URIs; '' without data."""
    looks, plots = figures.looks_of(study.board), []
    for group in study.groups:
        lines = group.lines.copy()
        lines.attrs = study.board.attrs
        cost = figures.pareto(lines, metric, looks) if lines[metric].notna().any() else None
        plots.append(
            {"cost": svg_uri(cost), "coverage": _coverage(group, study, means, metric, looks)}
        )
    return plots


def svg_uri(figure: Any) -> str:
    """Return the figure as a data URI; empty for None."""
    return (
        data_uri(figures.render(figure, "svg", transparent=True), "image/svg+xml")
        if figure is not None
        else ""
    )


def _coverage(
    group: Group, study: ReportData, means: pd.DataFrame, metric: str, looks: figures.Looks
) -> str:
    """Return the figure of the metric of every image against its hidden share."""
    try:
        holes = pd.Series(group.scene.holes(group.ids[:COVERED]), dtype=float)
    except Exception:  # said once already, where the pictures of this measurement would be
        return ""
    if holes.empty:
        return ""
    points = {}
    for cell in group.cells:
        if cell.name in means.index:
            values = means.loc[cell.name, metric].dropna()
            values = values[values.index.isin(holes.index)]
            points[cell.label] = (holes[values.index].to_numpy(float), values.to_numpy(float))
    if not points:
        return ""
    return svg_uri(
        figures.scatter(
            points,
            "share of the image that was hidden",
            figures.axis_title(study.board, metric),
            looks,
        )
    )


def write_pareto(study: Path, board: pd.DataFrame, metric: str) -> Iterator[Path]:
    """Write the figure of all measurements, for a paper, and yield its files."""
    if board[metric].isna().all():
        return
    figure = figures.pareto(board, metric)
    for kind in ("svg", "png"):
        write_atomic(study / f"pareto.{kind}", figures.render(figure, kind))
        yield study / f"pareto.{kind}"
