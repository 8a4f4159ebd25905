"""The bytes that a row takes on disk, from a shard of made-up rows of the same form."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.task_versions import FIRST
from posterior_bench.bench.engine.scoring import png
from posterior_bench.bench.store.shards import encoded_size
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import AnyMetric, SetMetric, to_uint8
from posterior_bench.metrics.features import FeatureMetric
from posterior_bench.priors.base import Prior

_ENCODED = 3
"""How many originals are written as PNG to know their size."""

_NUMBERS = (
    "seconds_fit",
    "seconds_sample",
    "nfe",
    "nge",
    "decode",
    "decode_grad",
    "encode",
    "encode_grad",
    "nfe_fit",
)


def image_shape(
    config: JobConfig, prior: Prior | None, images: ImageSet | str
) -> tuple[int, ...] | None:
    """Return the shape of a cell's images from its prior, images or settings, None if unknown."""
    if prior is not None:
        return prior.image_shape
    if isinstance(images, ImageSet):
        return tuple(images.shape)
    if (size := config.data.get("size")) is not None:
        return (1 if config.data.get("mode") == "grey" else 3, int(size), int(size))
    return None


def png_size(images: ImageSet | str, shape: Sequence[int]) -> int:
    """Return the mean bytes of the first originals as PNG.

    Where the images are not here, it is the size of all pixels without compression.
    """
    try:
        if isinstance(images, ImageSet):
            first = to_uint8(images.images(list(images.ids)[:_ENCODED]))
            return math.ceil(sum(len(png(pixels)) for pixels in first) / len(first))
    except (OSError, ValueError):
        pass
    return math.prod(shape)


def shard_size(rows: int, pixels: int, metrics: Mapping[str, AnyMetric]) -> int:
    """Return the bytes of a shard with made-up values that are as long as real ones.

    Parameters
    ----------
    rows : int
        Rows of the shard.
    pixels : int
        Bytes of the PNG file of each row.
    metrics : Mapping of str to AnyMetric
        The metrics whose values the rows hold.
    """
    columns = {name: value for metric in metrics.values() for name, value in _values(metric)}
    return encoded_size([_made_up_row(i, pixels, columns) for i in range(rows)])


def _values(metric: AnyMetric) -> list[tuple[str, object]]:
    """Return the columns of a metric with made-up values."""
    value: object = 0.123456789
    if isinstance(metric, FeatureMetric):
        value = [0.123456789] * metric.network.length
    elif isinstance(metric, SetMetric):
        value = [0.123456789] * 16
    return [(name, value) for name in metric.columns]


def _made_up_row(i: int, pixels: int, columns: Mapping[str, object]) -> dict[str, Any]:
    hashes = {"commit": 40, "truth": 16, "code": 16}
    return {
        "cell": "0" * 16,
        "image_id": f"{i:012d}",
        "draw": i,
        "status": "ok",
        "message": "",
        "png": os.urandom(pixels),
        "peak_mib": 1.0,
        "threads": 1,
        "padded_batch": 1,
        **{name: float(i) for name in _NUMBERS},
        "device": "cpu",
        "build": torch.__version__,
        "precision": "float32",
        "version": "0.0.0",
        "task_version": FIRST,
        "study_version": "default=1",
        **{name: os.urandom(length // 2).hex() for name, length in hashes.items()},
        **columns,
    }
