"""Tests of accuracy with random points: expected coverage of the posterior."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import Draws, DrawSet, MetricCard, SetMetric
from posterior_bench.metrics.ranks import (
    FUNCTIONS,
    LEVELS,
    Array,
    rank_intervals,
    share_below,
    squared_gap,
    uniform_points,
    unpack,
)


class TARP(SetMetric):
    """Mean squared gap between the expected coverage and the diagonal, over credibility levels 5 %
    to 95 %.

    Around a random reference point the region that holds a share ``alpha`` of the draws should hold
    the truth with probability ``alpha``. Each image has 16 points: every hidden pixel takes its
    nearest observed value plus uniform noise that grows to [-1, 1] from point to point. Points that
    follow the measurement find out a method that ignores it. Coverage is pooled over points. 1 is
    the worst there is, 0 is calibrated, on average and for any number of draws and images: the
    estimate is unbiased and may fall below 0 by chance. It needs draws and truth only. NaN for one
    image, and without hidden pixels.
    """

    card = MetricCard(
        id="tarp",
        title="TARP",
        direction="down",
        unit="",
        range="(-inf, 1]; 0 on average for exact draws",
        region="hole",
        preprocessing=f"raw output, not rounded; hidden pixels, Euclidean, {FUNCTIONS} reference "
        f"points; all images",
        source="Lemos, Coogan, Hezaveh, Perreault-Levasseur: Sampling-Based Accuracy Testing of "
        "Posterior Estimators, "
        "ICML 2023",
        level="set",
    )
    reference: ClassVar[float] = 0.755136

    def features(self, draws: DrawSet) -> Tensor:
        """``(N, 32)``: the rank interval of the truth's distance to every reference point."""
        return torch.stack([_features(image) for image in draws.images])

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        return squared_gap(
            share_below(unpack(features), LEVELS).mean(axis=1, keepdims=True), weights
        )


def _features(draws: Draws) -> Tensor:
    if not draws.hidden.any():
        return torch.full((2 * FUNCTIONS,), torch.nan)
    growing = torch.arange(1, FUNCTIONS + 1, dtype=torch.float64)[:, None] / FUNCTIONS
    points = (draws.guess + growing * uniform_points(FUNCTIONS, len(draws.truth)))[:, draws.hidden]
    both = torch.cat([draws.x, draws.truth[None]])[:, draws.hidden]
    distances = torch.cdist(both, points)
    return rank_intervals(distances[:-1], distances[-1]).flatten()
