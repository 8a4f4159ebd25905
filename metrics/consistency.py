"""Measure how well an image explains its measurement."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import Batch, Metric, MetricCard, expect


class Consistency(Metric):
    """Root mean square of ``A(x) - y`` over the measured values, for measurements without noise.

    ``x`` is the raw output before rounding, and the unit is that of ``y``. 0 is right. The value is
    NaN for noisy measurements, where a small residual means that the noise was fitted; use
    ``consistency_ratio`` there. If the measurement is an image under a mask, only observed pixels
    count; otherwise every value of ``y`` does. The value is NaN if nothing was measured.
    """

    card = MetricCard(
        id="consistency",
        title="Consistency",
        direction="down",
        unit="[-1, 1] units",
        range="[0, inf)",
        preprocessing="raw output, not rounded, through the operator; observed "
        "values only; no noise; float64",
    )
    unrounded: ClassVar[bool] = True

    @override
    def __call__(self, batch: Batch) -> Tensor:
        if batch.sigma == 0:
            return _residuals(batch)
        return torch.full((len(batch.y),), torch.nan, dtype=torch.float64)

    def check(self) -> None:
        """Compare the residuals 3 and 4 and 100 in the hole with ``sqrt((9 + 16) / 2)``."""
        Ax = torch.tensor([3.0, 4.0, 100.0]).view(1, 1, 1, 3)
        observed = torch.tensor([True, True, False]).view(1, 1, 1, 3)
        expect(self.card.id, _rmse(Ax, torch.zeros_like(Ax), observed), 12.5**0.5)


class ConsistencyRatio(Metric):
    """Residual of a noisy measurement relative to the standard deviation of its noise.

    ``consistency`` divided by ``sigma``; about 1 is right. The truth has 1, and so have exact
    posterior draws on average (of the square). Far below 1 the noise was fitted; far above 1 the
    measurement was ignored. Neither end is better, so the metric ranks nothing. The value is NaN
    without noise.
    """

    card = MetricCard(
        id="consistency_ratio",
        title="Residual / noise",
        direction="none",
        unit="",
        range="[0, inf); about 1 for the truth and for exact draws",
        preprocessing="raw output, not rounded, through the operator; observed values "
        "only; noisy data; float64",
    )
    unrounded: ClassVar[bool] = True

    @override
    def __call__(self, batch: Batch) -> Tensor:
        if batch.sigma > 0:
            return _residuals(batch) / batch.sigma
        return torch.full((len(batch.y),), torch.nan, dtype=torch.float64)

    def check(self) -> None:
        """Compare the residuals 3 and 4 at noise 5 with ``sqrt((9 + 16) / 2) / 5``."""
        Ax = torch.tensor([3.0, 4.0, 100.0]).view(1, 1, 1, 3)
        observed, zero = torch.tensor([True, True, False]).view(1, 1, 1, 3), torch.zeros_like(Ax)
        expect(
            self.card.id, self(Batch(zero, zero, zero, observed, zero, Ax, 5.0)).item(), 0.5**0.5
        )


def _residuals(batch: Batch) -> Tensor:
    rows = zip(batch.Ax.split(1), batch.y.split(1), batch.mask.split(1), strict=True)
    return torch.tensor([_rmse(*row) for row in rows], dtype=torch.float64)


def _rmse(Ax: Tensor, y: Tensor, mask: Tensor) -> float:
    squares = (Ax - y).abs().cpu().double().square()
    if y.ndim == 4 and y.shape[-2:] == mask.shape[-2:]:
        squares = squares[mask.cpu().expand(y.shape)]
    return squares.mean().sqrt().item()
