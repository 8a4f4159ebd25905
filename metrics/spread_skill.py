"""Compare the spread of the draws with the error of their mean."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import Draws, DrawSet, MetricCard, SetMetric
from posterior_bench.metrics.ranks import Array


class SpreadSkill(SetMetric):
    """Spread of the draws over the error of their mean, 1 for calibrated draws.

    ``sqrt((D + 1) / D) * spread / RMSE`` over the hidden pixels of all images. ``spread`` is the
    square root of the mean variance of the draws (divisor ``D - 1``) and ``RMSE`` the error of
    their mean; both are pooled over pixels and images before the root. The factor is exact for any
    number ``D`` of draws. Below 1 the draws are too similar, above 1 too different. The metric
    needs draws and truth only. It is NaN for one draw and without hidden pixels.
    """

    card = MetricCard(
        id="spread_skill",
        title="Spread-skill ratio",
        direction="none",
        unit="",
        range="[0, inf]; 1 is right",
        region="hole",
        preprocessing="raw output, not rounded; hidden pixels of all images; float64",
        source="Fortin, Abaza, Anctil, Turcotte: Why Should Ensemble Spread Match the RMSE "
        "of the Ensemble Mean?, 2014",
        level="set",
    )
    reference: ClassVar[float] = 1.274550

    def features(self, draws: DrawSet) -> Tensor:
        """Return variance times ``(D + 1) / D`` and squared error of the mean, ``(N, 2)``."""
        return torch.stack([_features(image) for image in draws.images])

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        variance, error = (weights @ features).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(variance / error))


def _features(draws: Draws) -> Tensor:
    x, truth = draws.x[:, draws.hidden], draws.truth[draws.hidden]
    if len(x) < 2 or not len(truth):
        return torch.full((2,), torch.nan)
    return torch.stack(
        [(len(x) + 1) / len(x) * x.var(0).mean(), (x.mean(0) - truth).square().mean()]
    )
