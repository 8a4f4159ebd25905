"""Test with simulation-based calibration (SBC) whether the ranks of the truth are uniform."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import Draws, DrawSet, MetricCard, SetMetric
from posterior_bench.metrics.ranks import (
    FUNCTIONS,
    LEVELS,
    SOURCE,
    Array,
    directions,
    rank_intervals,
    share_below,
    squared_gap,
    uniform_points,
    unpack,
)


class SBC(SetMetric):
    """Mean squared gap between the ranks of the truth and uniform ranks, over 16 projections.

    The hidden pixels of truth and draws are projected on eight fixed directions and on eight
    directions that follow the measurement (each pixel's nearest observed value times a random
    factor); the latter reveal a method that ignores the measurement. The worst value is 1.
    Calibrated draws have 0 on average for any number of draws and images; the estimate is unbiased
    and may fall below 0 by chance. The metric needs draws and truth only. It is NaN for one image
    and without hidden pixels.
    """

    card = MetricCard(
        id="sbc",
        title="SBC",
        direction="down",
        unit="",
        range="(-inf, 1]; 0 on average for exact draws",
        region="hole",
        preprocessing=f"raw output, not rounded; ranks of {FUNCTIONS} projections of the "
        "hidden pixels; all images",
        source=SOURCE,
        level="set",
    )
    reference: ClassVar[float] = 0.143802

    def features(self, draws: DrawSet) -> Tensor:
        """Return the rank interval of every projection, ``(N, 32)``."""
        return torch.stack([_features(image) for image in draws.images])

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        return squared_gap(share_below(unpack(features), LEVELS), weights)


def _features(draws: Draws) -> Tensor:
    if not draws.hidden.any():
        return torch.full((2 * FUNCTIONS,), torch.nan)
    half, d = FUNCTIONS // 2, len(draws.truth)
    follows = (
        uniform_points(half, d).abs() * draws.guess
        if draws.guess.any()
        else uniform_points(half, d)
    )
    theta = torch.cat([directions(half, d), follows])[:, draws.hidden].T
    return rank_intervals(
        draws.x[:, draws.hidden] @ theta, draws.truth[draws.hidden] @ theta
    ).flatten()
