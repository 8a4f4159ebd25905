"""The figures of a report: quality against cost, and against coverage of the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.analysis import figures
from posterior_bench.bench.analysis.cost_figure import Axis, cost_figure
from posterior_bench.bench.pages.report_data import Group, ReportData
from posterior_bench.bench.pages.thumbnails import data_uri
from posterior_bench.bench.store.atomic import write_atomic

CLOUDS = len(figures.COLOURS)
"""Solvers whose images are drawn as points, at most: more would cover each other."""


def plots_of(
    study: ReportData, means: pd.DataFrame, metric: str, holes: Sequence[pd.Series]
) -> list[dict[str, Any]]:
    """Return per measurement the figures of costs and of coverage as data URIs.

    Parameters
    ----------
    study : ReportData
        The data of the report.
    means : DataFrame
        The values of images by cell and image.
    metric : str
        The metric.
    holes : sequence of Series
        Per measurement, the hidden share of every image.
    """
    looks = figures.looks_of(study.board)
    return [
        {
            "costs": _costs(group, study, metric),
            "coverage": _coverage(group, study, means, metric, looks, hidden),
        }
        for group, hidden in zip(study.groups, holes, strict=True)
    ]


def _costs(group: Group, study: ReportData, metric: str) -> list[str]:
    """Return the figures of the metric against passes and against seconds."""
    lines = group.lines
    points = pd.DataFrame(
        {
            "solver": lines["solver"],
            "passes": lines["passes"],
            "seconds": lines["seconds_fit"] + lines["seconds_sample"],
            **{key: lines[f"{metric}{end}"] for key, end in _VALUES.items()},
        }
    )
    direction = study.board.attrs["metrics"][metric]["direction"]
    best = points.sort_values("value", ascending=direction == "down", kind="stable")["solver"]
    quality = Axis(figures.axis_title(study.board, metric), direction)
    return [
        svg_uri(
            cost_figure(points.rename(columns={c: "cost"}), figures.TITLES[c], quality, [*best])
        )
        for c in figures.COSTS
        if points["value"].notna().any() and (points[c] > 0).any()
    ]


_VALUES = {"value": "", "lo": "_lo", "hi": "_hi"}


def svg_uri(figure: Any) -> str:
    """Return the figure as a data URI; empty for None."""
    return (
        data_uri(figures.render(figure, "svg", transparent=True), "image/svg+xml")
        if figure is not None
        else ""
    )


def _coverage(
    group: Group,
    study: ReportData,
    means: pd.DataFrame,
    metric: str,
    looks: figures.Looks,
    holes: pd.Series,
) -> str:
    """Return the figure of the metric of every image against its hidden share; '' without data."""
    if holes.empty or len(group.cells) > CLOUDS:
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
