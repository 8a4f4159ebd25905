"""Test pixel by pixel whether the truth looks like one more draw."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import Draws, DrawSet, MetricCard, SetMetric
from posterior_bench.metrics.ranks import (
    FUNCTIONS,
    Array,
    comparable,
    rank_intervals,
    share_below,
    unpack,
)

BINS = 10


class RankHistogram(SetMetric):
    """Unevenness of the histogram of the truth's ranks among the draws, relative to chance.

    ``delta = |sum_i (m_i - 1/B)|^2 / sum_i |m_i - 1/B|^2``, where ``m_i`` is the share of image
    ``i`` in each of the ``B`` = 10 bins, computed per pixel and averaged over 16 evenly spaced
    hidden pixels. It is 1 on average for calibrated draws; for others it grows with the number of
    images. It is a test, not a distance: compare it at equal numbers of images. It needs draws and
    truth only, and a method that ignores the measurement can pass it.
    """

    card = MetricCard(
        id="rank_histogram",
        title="Rank histogram",
        direction="down",
        unit="x chance",
        range="[0, n] for n images; 1 on average for exact draws",
        region="hole",
        preprocessing=f"raw output, rounded only where the truth has 8 bits; {FUNCTIONS} "
        f"hidden pixels, {BINS} bins",
        source="Candille, Talagrand: Evaluation of probabilistic prediction systems "
        "for a scalar variable, 2005",
        level="set",
    )
    reference: ClassVar[float] = 0.840736

    def features(self, draws: DrawSet) -> Tensor:
        """Return the rank interval of every pixel, ``(N, 32)``."""
        return torch.stack([_features(image) for image in draws.images])

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        m = np.diff(share_below(unpack(features), np.arange(BINS + 1) / BINS), axis=2) - 1 / BINS
        squares = (m**2).sum(axis=2)
        sums = (weights @ m.reshape(len(m), -1)).reshape(-1, *m.shape[1:])
        # pairs of different images only: an image that a resample holds twice must not count as
        # unevenness
        pairs = (sums**2).sum(axis=2) - weights**2 @ squares
        chance = weights @ squares
        ratio = np.divide(pairs, chance, out=np.full_like(pairs, np.nan), where=chance > 0)
        defined = np.isfinite(ratio)
        count = defined.sum(axis=1)
        total = np.where(defined, 1 + ratio, 0.0).sum(axis=1)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _features(draws: Draws) -> Tensor:
    x, truth = comparable(draws)
    if not len(truth):
        return torch.full((2 * FUNCTIONS,), torch.nan)
    chosen = torch.linspace(0, len(truth) - 1, FUNCTIONS, dtype=torch.float64).round().long()
    return rank_intervals(x[:, chosen], truth[chosen]).flatten()
