"""Compare the error of the mean of the draws with that of the exact posterior mean."""

from __future__ import annotations

import math
from typing import ClassVar

from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard


class MMSEGap(DrawMetric):
    """Excess error of the mean of the draws over the smallest possible one, in dB.

    ``10 log10(|mean of draws - truth|^2 / |posterior mean - truth|^2)`` of one image; tables
    average decibels. The posterior mean has the smallest squared error on average. ``D`` exact
    draws have about ``10 log10(1 + 1/D)``, 0.26 dB for 16. A single image may fall below 0 by
    chance. The value is NaN where the posterior mean is the truth itself.
    """

    card = MetricCard(
        id="mmse_gap",
        title="MMSE gap",
        direction="down",
        unit="dB",
        range="(-inf, inf); about 10 log10(1 + 1/D) for D exact draws",
        preprocessing="raw output, not rounded, whole image; float64",
        source="Zach, Haviv, Unser, Bohra: A statistical benchmark for diffusion posterior "
        "sampling algorithms, 2025 (arXiv 2509.12821)",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = 2.124721

    @override
    def score(self, draws: Draws) -> float:
        mean = draws.exact.mean(0) if draws.mean is None else draws.mean
        least = (mean - draws.truth).square().sum().item()
        error = (draws.x.mean(0) - draws.truth).square().sum().item()
        if least == 0:
            return math.nan
        return 10 * math.log10(error / least) if error > 0 else -math.inf
