"""The values of a cell with their intervals, per metric."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis.cell_records import Card, CellRecord
from posterior_bench.bench.analysis.statistics import (
    Array,
    means_over_images,
    statistic_over_images,
)
from posterior_bench.bench.config.build import build as build_object
from posterior_bench.bench.store.schema import TRUTH


def image_scores(
    means: pd.DataFrame, cells: Sequence[CellRecord], metrics: Sequence[str]
) -> pd.DataFrame:
    """Return per cell ``m m_lo m_hi m_n m_inf``.

    Cells of one data set share their resamples of images.
    """
    images = {cell: part[metrics] for cell, part in means.groupby(level="cell")}
    nothing = pd.DataFrame(columns=metrics, dtype=float)
    scores: dict[Hashable, dict[str, float]] = {cell.name: {} for cell in cells}
    for data in sorted({str(cell.identity["data"]) for cell in cells}):
        keys = [
            (cell.name, m) for cell in cells if str(cell.identity["data"]) == data for m in metrics
        ]
        over = means_over_images(
            [images.get(cell, nothing)[m].to_numpy(float) for cell, m in keys], data
        )
        for i, (cell, m) in enumerate(keys):
            values = {
                m: over.mean[i],
                f"{m}_lo": over.lo[i],
                f"{m}_hi": over.hi[i],
                f"{m}_n": over.n[i],
            }
            scores[cell].update(values | {f"{m}_inf": over.infinite[i]})
    return pd.DataFrame([scores[cell.name] for cell in cells])


def set_scores(
    rows: Mapping[str, pd.DataFrame], cells: Sequence[CellRecord], metrics: Sequence[str]
) -> pd.DataFrame:
    """Return per cell ``m m_lo m_hi m_n m_inf`` of set metrics, from its features."""
    lines: list[dict[str, float]] = []
    for cell in cells if metrics else ():
        mine, line = rows[cell.name], dict[str, float]()
        for m in metrics:
            features = _set_features(mine, m, cell.metrics) if m in cell.sets else np.empty((0, 0))
            ends = (np.nan, np.nan, np.nan)
            if len(features):
                reduce = build_object(cell.sets[m]).reduce
                if cell.metrics[m].get("resampled", True):
                    ends = statistic_over_images(reduce, features, str(cell.identity["data"]))
                else:
                    ends = (float(reduce(features, np.ones((1, len(features))))[0]), np.nan, np.nan)
            names = (m, f"{m}_lo", f"{m}_hi", f"{m}_n", f"{m}_inf")
            line |= dict(zip(names, (*ends, len(features), 0), strict=True))
        lines.append(line)
    return pd.DataFrame(lines)


def _set_features(rows: pd.DataFrame, metric: str, cards: Mapping[str, Card]) -> Array:
    """Return the features of a set metric, those of the original first where columns are shared."""
    card = cards[metric]
    column = card.get("features") or metric
    if column not in rows:
        return np.empty((0, 0))
    truths = rows
    if card.get("best_of"):
        rows = _best_draws(rows, card, cards)
    features = _features(rows[["image_id", column]].dropna())
    if not card.get("features") or not len(features):
        return features
    truth = _features(truths[["image_id", column + TRUTH]].dropna())
    draws = features[:, None] if features.ndim == 2 else features
    return np.concatenate([truth[:, None], draws], axis=1)


def _best_draws(rows: pd.DataFrame, card: Card, cards: Mapping[str, Card]) -> pd.DataFrame:
    """Return one row per image: the best of its first N draws by the metric that chooses.

    Nothing is returned if an image has fewer draws, or a draw without a value: the best of the rest
    would be the best of fewer.
    """
    size, by = int(card["best_of"]), card["chosen_by"]
    first = rows[rows["draw"] < size]
    if by not in rows or len(first) != size * rows["image_id"].nunique() or first[by].isna().any():
        return rows.iloc[:0]
    down = cards[by]["direction"] == "down"
    return first.sort_values([by, "draw"], ascending=[down, True]).groupby("image_id").head(1)


def _features(rows: pd.DataFrame) -> Array:
    """Return features ``(n, F)`` of one vector per image, or ``(n, D, F)`` of one per draw.

    Images without features are left out.
    """
    rows = rows[rows.iloc[:, 1].map(len) > 0]
    images = [
        np.stack(list(values)).astype(float)
        for _, values in rows.groupby("image_id")[rows.columns[1]]
    ]
    if not images:
        return np.empty((0, 0))
    features = np.stack(images)
    return features[:, 0] if features.shape[1] == 1 else features
