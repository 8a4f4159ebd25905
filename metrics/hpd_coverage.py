"""Measure how often the region of highest posterior density contains the truth."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard

ALPHA = 0.9
"""Nominal coverage of the region."""

_SOURCE = (
    "Zach, Haviv, Unser, Bohra: A statistical benchmark for diffusion posterior sampling "
    "algorithms, 2025 (arXiv 2509.12821)"
)


class HPDCoverage(DrawMetric):
    """Whether the truth lies in the 90 % region of highest posterior density that the draws span.

    The draws are sorted by the density of the exact posterior, highest first. The region is where
    the density reaches that of the first draw by which 90 % of the draws have passed. The value of
    an image is 1 if the truth lies in the region, else 0. For ``D`` exact draws it is 1 with
    probability ``ceil(0.9 D) / (D + 1)``: 0.88 for 16, and 0.9 in the limit. A smaller share means
    draws that crowd at the mode, and a larger share draws that lie too far out. The value is NaN
    for a posterior without a density.
    """

    card = MetricCard(
        id="hpd_coverage",
        title="HPD coverage",
        direction="none",
        unit="",
        range="0 or 1; a mean of ceil(0.9 D) / (D + 1) is right for D draws",
        preprocessing="raw output, not rounded; density of the exact posterior; float64",
        source=_SOURCE + "; every draw counts the same",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = 1.0

    @override
    def score(self, draws: Draws) -> float:
        if draws.log_densities is None:
            return math.nan
        truth, *rest = draws.log_densities()
        densities = torch.stack(rest)
        return float(truth >= _threshold(densities, self.weights(densities)))

    def weights(self, densities: Tensor) -> Tensor:
        """Return the weight of each draw, ``(D,)`` with sum 1."""
        return torch.full_like(densities, 1 / len(densities))


class ReleasedHPDCoverage(HPDCoverage):
    """HPD coverage as the released code computes it: draws are weighted by their density.

    The weights are the softmax of the log densities. The draw of highest density then often has
    nearly all weight, so the region is too small: exact draws are covered far less often than 90 %.
    Use ``hpd_coverage``, and this one only beside numbers of that code.
    """

    card = MetricCard(
        id="hpd_coverage_released",
        title="HPD coverage, released weights",
        direction="none",
        unit="",
        range="0 or 1",
        preprocessing="raw output, not rounded; density of the exact posterior; float64",
        source=_SOURCE + ", released code: draws of a method are weighted by their density",
        level="draws",
    )
    reference: ClassVar[float] = 1.0

    @override
    def weights(self, densities: Tensor) -> Tensor:
        return densities.softmax(0)


def _threshold(densities: Tensor, weights: Tensor) -> Tensor:
    """Return the density of the first draw by which the weights reach :data:`ALPHA`."""
    order = densities.argsort(descending=True)
    reached = weights[order].cumsum(0) >= ALPHA - 1e-9
    return densities[order][reached.int().argmax()]
