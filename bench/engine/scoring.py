"""From images to the columns of rows, for a worker and for ``bench score``."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from posterior_bench.bench.core.errors import UserError
from posterior_bench.metrics.base import (
    AnyMetric,
    Batch,
    DrawMetric,
    DrawSet,
    Metric,
    SetMetric,
    ValueMetric,
)
from posterior_bench.metrics.features import FeatureMetric

Row = dict[str, Any]


def score_rows(
    metrics: Mapping[str, AnyMetric], batch: Batch, drawn: DrawSet, finite: Tensor
) -> list[Row]:
    """Return the columns of every row, image by image and draw by draw.

    If one draw of an image is not finite, metrics of all its draws are NaN: dropping failed draws
    would favour methods that fail often.

    Parameters
    ----------
    metrics : Mapping
        The metrics by column.
    batch : Batch
        ``N D`` images.
    drawn : DrawSet
        The same ``N`` images with ``D`` draws each.
    finite : Tensor
        Bool ``(N D,)``; a row that is not finite has no values.
    """
    complete = finite.view(len(drawn.x), -1).all(1)
    rows: list[Row] = [{} for _ in finite]
    for name, metric in metrics.items():
        if isinstance(metric, Metric):
            for row, value, ok in zip(rows, metric(batch).tolist(), finite.tolist(), strict=True):
                row[name] = value if ok else math.nan
        elif isinstance(metric, DrawMetric):
            put_draws(rows, name, metric(drawn), complete)
    _put_features(rows, metrics, drawn, complete)
    return rows


def demand_numbers(rows: Sequence[Row]) -> None:
    """Raise TypeError if a metric gave something else than real numbers.

    It could not be stored, or not without a change.
    """
    for row in rows:
        for name, value in row.items():
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, float | int):
                    raise TypeError(
                        f"metric '{name}' gave {type(part).__name__} in place of a real number"
                    )


def put_draws(rows: list[Row], name: str, values: Tensor, complete: Tensor) -> None:
    """Put one value per image ``(N,)`` into all its rows; NaN if it is not ``complete``."""
    draws = len(rows) // len(complete)
    for i, (value, ok) in enumerate(zip(values.tolist(), complete.tolist(), strict=True)):
        for row in rows[i * draws : (i + 1) * draws]:
            row[name] = value if ok else math.nan


def values_of(
    metrics: Mapping[str, AnyMetric], rows: Sequence[Row], draws: int
) -> dict[str, Tensor]:
    """Return the values ``(N, D)`` of scored rows that :func:`put_values` needs, by column."""
    wanted = {metric.of for metric in metrics.values() if isinstance(metric, ValueMetric)}
    return {
        of: torch.tensor([row[of] for row in rows], dtype=torch.float64).view(-1, draws)
        for of in wanted
    }


def check_base(metric: ValueMetric, metrics: Mapping[str, AnyMetric]) -> None:
    """Raise UserError if the metric whose values another metric takes does not fit.

    It may be absent, no metric of single images, or of another direction or version.
    """
    base = metrics.get(metric.of)
    if not isinstance(base, Metric):
        raise UserError(
            f"metric '{metric.card.id}' needs the values of '{metric.of}' for every draw; choose "
            f"that too"
        )
    if base.card.direction != metric.card.direction:
        raise UserError(
            f"metric '{metric.card.id}' says direction {metric.card.direction}, '{metric.of}' "
            f"another one"
        )
    if base.card.version != metric.card.version:
        raise UserError(
            f"metric '{metric.card.id}' is for version {metric.card.version} of '{metric.of}', "
            f"which is version "
            f"{base.card.version} now; set metrics.{metric.card.id}.version={base.card.version}"
        )


def check_chooser(metric: AnyMetric, known: Collection[str]) -> None:
    """Raise UserError if a metric of one draw per image lacks the metric that chooses the draw."""
    chooser = metric.card.chosen_by
    if chooser and chooser not in known:
        raise UserError(
            f"metric '{metric.card.id}' chooses a draw by '{chooser}'; choose that metric too"
        )


def put_values(
    rows: list[Row], metrics: Mapping[str, AnyMetric], stored: Mapping[str, Tensor]
) -> None:
    """Add the metrics that are computed from the values of other metrics.

    ``stored`` holds these values ``(N, D)`` by column, NaN where there is none.
    """
    for name, metric in metrics.items():
        if isinstance(metric, ValueMetric):
            values = stored[metric.of]
            put_draws(rows, name, metric(values), ~values.isnan().any(1))


def _put_features(
    rows: list[Row], metrics: Mapping[str, AnyMetric], drawn: DrawSet, complete: Tensor
) -> None:
    """Add the features of set metrics.

    The features of an image and its original stand in the row of the first draw.
    """
    draws = len(rows) // len(complete)
    done: set[tuple[str, ...]] = set()
    for metric in metrics.values():
        if not isinstance(metric, SetMetric) or metric.columns in done:
            continue
        done.add(metric.columns)
        values = metric.features(drawn)
        column, *truth = metric.columns
        if isinstance(metric, FeatureMetric):
            original, values = values[:, 0], values[:, 1:]
        usable = complete & ~values.flatten(1).isnan().any(1).to(complete.device)
        for i, ok in enumerate(usable.tolist()):
            first = i * draws
            for name in truth:
                rows[first][name] = original[i].tolist() if ok else []
            for d in range(draws if values.ndim == 3 else 1):
                kept = values[i] if values.ndim == 2 else values[i, d]
                rows[first + d][column] = kept.tolist() if ok else []


def png(pixels: Tensor) -> bytes:
    """Return 8-bit pixels ``(C, H, W)`` as the bytes of a PNG file."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()
