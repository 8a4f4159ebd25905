"""Test the coverage of the posterior with random points (TARP)."""

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
    """Mean squared gap between the expected coverage and the diagonal.

    The coverage is evaluated at credibility levels from 5 % to 95 %. Around a random reference
    point, the region that holds a fraction ``alpha`` of the draws should hold the truth with
    probability ``alpha``. Each image has 16 points: every hidden pixel takes the nearest observed
    value plus uniform noise, which grows to [-1, 1] from the first point to the last. Points that
    follow the measurement reveal a method that ignores it. Coverage is pooled over points. The
    worst value is 1. Calibrated draws have 0 on average for any number of draws and images; the
    estimate is unbiased and may fall below 0 by chance. The metric needs draws and truth only. It
    is NaN for one image and without hidden pixels.
    """

    card = MetricCard(
        id="tarp",
        title="TARP",
        direction="down",
        unit="",
        range="(-inf, 1]; 0 on average for exact draws",
        region="hole",
        preprocessing=f"raw output, not rounded; hidden pixels, Euclidean, {FUNCTIONS} "
        "reference points; all images",
        source="Lemos, Coogan, Hezaveh, Perreault-Levasseur: Sampling-Based Accuracy Testing of "
        "Posterior Estimators, ICML 2023",
        level="set",
    )
    reference: ClassVar[float] = 0.755136

    def features(self, draws: DrawSet) -> Tensor:
        """Return rank intervals of the truth's distances to the reference points, ``(N, 32)``."""
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
