"""The tables of a report by class and by coverage of the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import tables
from posterior_bench.bench.analysis.breakdown import breakdown, coverage_groups
from posterior_bench.bench.pages.report_data import Group, ReportData

COVERED = 2000
"""Images whose masks are drawn again, at most."""

CLASSES = 12
"""Columns of classes, at most: those with most images."""


def breakdowns(
    study: ReportData,
    group: Group,
    means: pd.DataFrame,
    metric: str,
    holes: pd.Series,
    order: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return the tables of one measurement: by hidden share and by class, where there are any.

    Parameters
    ----------
    study : ReportData
        The data of the report.
    group : Group
        The cells of the measurement.
    means : DataFrame
        The values of images by cell and image.
    metric : str
        The metric.
    holes : Series
        The hidden share of every image, by image id; empty without masks.
    order : sequence of str, default ()
        The solvers whose lines come first.
    """
    places = {name: place for place, name in enumerate(order)}
    values = {
        cell.label: means.loc[cell.name, metric]
        for cell in sorted(group.cells, key=lambda cell: places.get(cell.label, len(places)))
        if cell.name in means.index
    }
    found = []
    for title, groups in (
        ("By hidden share of the image", coverage_groups(holes)),
        ("By class", classes_of(group)),
    ):
        if groups.nunique() > 1 and values:
            direction = study.board.attrs["metrics"][metric]["direction"]
            found.append({"title": title, **_table(breakdown(values, groups), direction)})
    return found


def holes_of(group: Group) -> pd.Series:
    """Return the hidden share of every image; empty if there is no mask, or it cannot be drawn."""
    try:
        return pd.Series(group.scene.holes(group.ids[:COVERED]), dtype=float)
    except Exception:  # said once already, where the pictures of this measurement would be
        return pd.Series(dtype=float)


def classes_of(group: Group) -> pd.Series:
    """Return the class of every image of the most frequent classes, the largest class first."""
    try:
        found = pd.Series(group.scene.classes(group.ids[:COVERED]), dtype=object)
    except Exception:  # as above
        return pd.Series(dtype=object)
    kept = [*found.value_counts().head(CLASSES).index]
    found = found[found.isin(kept)]
    return found.iloc[np.argsort([kept.index(name) for name in found], kind="stable")]


def _table(frame: pd.DataFrame, direction: str) -> dict[str, Any]:
    """Return groups with their numbers of images, and a line of texts per solver."""
    groups = [*dict.fromkeys(frame["group"])]
    counts = frame.groupby("group")["n"].max()
    means = frame.pivot(index="solver", columns="group", values="mean")[groups]
    best = means.max() if direction == "up" else means.min()
    parts = {(line["solver"], line["group"]): line for line in frame.to_dict("records")}
    lines = [
        {"solver": name, "cells": [_cell(parts[name, g], means[g], best[g]) for g in groups]}
        for name in dict.fromkeys(frame["solver"])
    ]
    return {"groups": [(g, int(counts[g])) for g in groups], "lines": lines}


def _cell(line: Mapping[Any, Any], column: pd.Series, best: float) -> dict[str, Any]:
    """Return a mean as text, and how far it is from the best of its column, 0 to 1."""
    places = tables.decimals(line["mean"], line["lo"], line["hi"])
    known = np.isfinite(line["lo"])
    span = float((column - best).abs().max())
    away = abs(line["mean"] - best) / span if span > 0 else 0.0
    return {
        "text": tables.number(line["mean"], places) if known else tables.significant(line["mean"]),
        "ends": f"[{tables.number(line['lo'], places)}, {tables.number(line['hi'], places)}]"
        if known
        else "",
        "n": "" if np.isnan(line["mean"]) else repr(float(line["mean"])),
        "shade": round(1 - away, 3) if np.isfinite(away) else 0,
    }
