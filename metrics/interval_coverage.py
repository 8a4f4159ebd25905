"""Measure how often central intervals of the draws contain the truth, pixel by pixel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard, expect, reference_draws
from posterior_bench.metrics.ranks import comparable, rank_intervals, share_below


class IntervalCoverage(DrawMetric):
    """Fraction of hidden pixels whose true value lies in the central interval of the draws.

    Calibrated draws reach the nominal coverage ``percent`` on average, for any number of draws: the
    ends of the interval lie between draws, and a truth next to an end counts in part. A lower value
    means intervals that are too narrow or misplaced, a higher value means intervals that are too
    wide. A method that ignores the measurement can be calibrated too. The metric is NaN without
    hidden pixels.

    Parameters
    ----------
    percent : int, default 90
        Nominal coverage of the interval in percent, 1 to 99.

    Raises
    ------
    ValueError
        For a percentage out of range.
    """

    references: ClassVar[dict[int, float]] = {50: 0.6875, 90: 1.0}

    def __init__(self, percent: int = 90) -> None:
        if not 0 < percent < 100:
            raise ValueError(
                f"an interval of {percent} % cannot be covered; give a whole percentage "
                "from 1 to 99"
            )
        self.percent = percent
        self.card = MetricCard(
            id=f"coverage_{percent}",
            title=f"Coverage of {percent} % intervals",
            direction="none",
            unit="",
            range=f"[0, 1]; {percent / 100:g} is right",
            region="hole",
            preprocessing="raw output, rounded only where the truth has 8 bits; hidden "
            "pixels and channels",
            level="draws",
        )

    def check(self) -> None:
        """Compare the reference value of the intervals that have one."""
        if self.percent in self.references:
            value = self.score(reference_draws().images[0])
            expect(self.card.id, value, self.references[self.percent])

    @override
    def score(self, draws: Draws) -> float:
        x, truth = comparable(draws)
        if not len(truth):
            return float("nan")
        tail = (1 - self.percent / 100) / 2
        below = share_below(rank_intervals(x, truth).numpy(), np.array([tail, 1 - tail]))
        return float((below[:, 1] - below[:, 0]).mean())
