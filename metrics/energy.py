"""Compute the energy score against the truth and the energy distance to the exact posterior."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    DrawMetric,
    Draws,
    MetricCard,
    Region,
    column_id,
    expect,
    reference_draws,
)

_SOURCE = "Gneiting, Raftery: Strictly Proper Scoring Rules, Prediction, and Estimation, JASA 2007"


class EnergyScore(DrawMetric):
    """Energy score of the draws against the truth, unbiased.

    ``E|X - truth| - 1/2 E|X - X'|`` with Euclidean norms. It needs draws and truth only. It is a
    strictly proper score: its expectation is smallest for the exact posterior alone, for any number
    of draws. A single value is not a distance, because it contains the spread of the posterior;
    compare methods on the same images. In one dimension it is the CRPS. The value is NaN for one
    draw and for an empty region.

    Parameters
    ----------
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count.
    """

    references: ClassVar[dict[str, float]] = {
        "whole": 0.702051,
        "hole": 0.632316,
        "known": 0.203396,
    }

    def __init__(self, region: Region = "whole") -> None:
        self.card = MetricCard(
            id=column_id("energy_score", region),
            title="Energy score",
            direction="down",
            unit="[-1, 1] units",
            range="(-inf, inf)",
            region=region,
            preprocessing="raw output, not rounded; pairs of different draws; float64",
            source=_SOURCE,
            level="draws",
        )

    @override
    def check(self) -> None:
        expect(
            self.card.id, self.score(reference_draws().images[0]), self.references[self.card.region]
        )

    @override
    def score(self, draws: Draws) -> float:
        everything = torch.ones_like(draws.hidden)
        regions = {"whole": everything, "hole": draws.hidden, "known": ~draws.hidden}
        chosen = regions[self.card.region]
        if len(draws.x) < 2 or not chosen.any():
            return float("nan")
        x, truth = draws.x[:, chosen], draws.truth[chosen]
        return ((x - truth).norm(dim=1).mean() - torch.pdist(x).mean() / 2).item()


class EnergyDistance(DrawMetric):
    """Energy distance between draws and exact draws, unbiased.

    ``2 E|X - Z| - E|X - X'| - E|Z - Z'|`` with exact draws ``Z``, over pairs of different draws
    only. It is 0 on average for any number of exact draws, so it may fall below 0 by chance, and
    positive for every other distribution. The value is NaN for one draw.
    """

    card = MetricCard(
        id="energy_distance",
        title="Energy distance",
        direction="down",
        unit="[-1, 1] units",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="raw output, not rounded, whole image; float64; not its square root",
        source="Szekely, Rizzo: Energy statistics, 2013",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = -0.128050

    @override
    def score(self, draws: Draws) -> float:
        count = len(draws.x)
        own, exact = draws.distances[:count, :count], draws.distances[count:, count:]
        if count < 2:
            return float("nan")
        cross = draws.distances[:count, count:].mean()
        return (2 * cross - pair_mean(own) - pair_mean(exact)).item()


class RelativeEnergyDistance(DrawMetric):
    """Energy distance relative to the spread of the exact posterior, ``E|Z - Z'|``.

    It is 0 on average for any number of independent exact draws, and 1 for draws whose excess
    distance is as large as the distance of two exact draws, so images and problems of different
    difficulty can be averaged. Draws that repel each other (for example, one per mode) look further
    apart than independent draws and can fall below 0, by at most ``1 / (D - 1)`` of their mean
    distance. The value is NaN for one draw and if the exact posterior has no spread.
    """

    card = MetricCard(
        id="energy_distance_rel",
        title="Energy distance / posterior spread",
        direction="down",
        unit="",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="energy_distance over the mean distance of two exact draws "
        "of the same image; float64",
        source="Szekely, Rizzo: Energy statistics, 2013",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = -0.092787

    @override
    def score(self, draws: Draws) -> float:
        count = len(draws.x)
        spread = pair_mean(draws.distances[count:, count:]).item()
        if not spread > SMALLEST:
            return float("nan")
        return EnergyDistance().score(draws) / spread


SMALLEST = 1e-6
"""Smallest mean distance of exact draws with which an energy distance is compared."""


def pair_mean(distances: Tensor) -> Tensor:
    """Average distances ``(..., n, n)`` with a zero diagonal over pairs of different draws."""
    n = distances.shape[-1]
    return distances.sum((-2, -1)) / (n * (n - 1))
