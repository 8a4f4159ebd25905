"""How often central intervals of the draws hold the truth, pixel by pixel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard, expect, reference_draws
from posterior_bench.metrics.ranks import comparable, rank_intervals, share_below


class IntervalCoverage(DrawMetric):
    """The share of hidden pixels whose true value lies in the central interval of its draws.

    ``percent``: the interval's nominal coverage, which is what calibrated draws give on average,
    for any number of draws: the interval ends between draws, and a truth next to an end counts in
    part. Less is too narrow or misplaced, more is too wide. A method that ignores the measurement
    can be calibrated too. NaN without hidden pixels.
    """

    references: ClassVar[dict[int, float]] = {50: 0.6875, 90: 1.0}

    def __init__(self, percent: int = 90) -> None:
        if not 0 < percent < 100:
            raise ValueError(
                f"an interval of {percent} % cannot be covered; give a whole percentage from 1 to "
                f"99"
            )
        self.percent = percent
        self.card = MetricCard(
            id=f"coverage_{percent}",
            title=f"Coverage of {percent} % intervals",
            direction="none",
            unit="",
            range=f"[0, 1]; {percent / 100:g} is right",
            region="hole",
            preprocessing="raw output, rounded only where the truth has 8 bits; hidden pixels and "
            "channels",
            level="draws",
        )

    def check(self) -> None:
        """Compare a reference value, for the intervals that have one."""
        if self.percent in self.references:
            expect(
                self.card.id, self.score(reference_draws().images[0]), self.references[self.percent]
            )

    @override
    def score(self, draws: Draws) -> float:
        x, truth = comparable(draws)
        if not len(truth):
            return float("nan")
        tail = (1 - self.percent / 100) / 2
        below = share_below(rank_intervals(x, truth).numpy(), np.array([tail, 1 - tail]))
        return float((below[:, 1] - below[:, 0]).mean())
