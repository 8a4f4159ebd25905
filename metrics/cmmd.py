"""Compute the maximum mean discrepancy of CLIP embeddings (CMMD)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard
from posterior_bench.metrics.feature_networks import CLIPImages
from posterior_bench.metrics.features import Array, FeatureMetric
from posterior_bench.metrics.kid import pairs

SIGMA = 10.0
"""Width of the Gaussian kernel; embeddings have length 1."""

SCALE = 1000.0
SMALL = 50


class CMMD(FeatureMetric):
    """Squared maximum mean discrepancy of CLIP embeddings of draws and originals, times 1000.

    The kernel is ``exp(-|f - g|^2 / (2 sigma^2))`` with sigma = 10 on embeddings of length 1. Draw
    ``j`` of all images is compared with the originals, and the values are averaged over ``j``. As
    published, the estimate includes the kernel of a vector with itself, so it is biased upward by
    about ``1/N``, and a draw is a pair with its own original. In resamples the share of such pairs
    stays ``1/N``: otherwise every resample would be biased more than the value. The value is NaN
    for one image.
    """

    reference: ClassVar[float] = 2.443360

    def __init__(self) -> None:
        super().__init__(CLIPImages(), {})
        self.card = MetricCard(
            id="cmmd",
            title="CMMD (CLIP ViT-L/14, 336 px)",
            direction="down",
            unit="1e-3",
            range="[0, inf)",
            backbone=self.network.title,
            weights=self.network.weights,
            preprocessing=f"{self.network.preprocessing}; Gaussian kernel, sigma {SIGMA:g}; draw j "
            "of all images against the originals, mean over j. The port to PyTorch that many use "
            "resizes with another cubic kernel (a = -0.75)",
            source="Jayasumana, Ramalingam, Veit, Glasner, Chakrabarti, Kumar: Rethinking FID: "
            "Towards a Better Evaluation Metric for Image Generation, CVPR 2024",
            level="set",
            features=self.network.column,
            small=SMALL,
        )

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        if len(features) < 2:
            return np.full(len(weights), np.nan)
        truth, *draws = features.swapaxes(0, 1)
        kernel = _kernel(truth, truth)
        for draw in draws:
            cross = _kernel(draw, truth)
            kernel = kernel + (_kernel(draw, draw) - cross - cross.T) / len(draws)
        return SCALE * pairs(kernel, np.diagonal(kernel), 1 / weights.sum(1), weights)


def _kernel(x: Array, y: Array) -> Array:
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.asarray(np.exp(-squares / (2 * SIGMA**2)))
