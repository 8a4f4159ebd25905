"""How well an image explains its measurement."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from metrics.base import Batch, Metric, MetricCard, expect


class Consistency(Metric):
    """Root mean square of ``A(x) - y`` over the measured values, ``x`` the unrounded raw output, in units of ``y``.

    Where the measurement is an image under a mask, only observed pixels count; otherwise every value of ``y`` does.
    NaN where nothing was measured. A measurement with noise of standard deviation sigma is explained at about sigma:
    a value far below it means that the noise was fitted.
    """

    card = MetricCard(
        id="consistency",
        title="Consistency",
        direction="down",
        unit="[-1, 1] units",
        range="[0, inf)",
        preprocessing="raw output, not rounded, through the operator; observed values only; float64",
    )
    unrounded: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Tensor:
        rows = zip(batch.Ax.split(1), batch.y.split(1), batch.mask.split(1), strict=True)
        return torch.tensor([_rmse(*row) for row in rows], dtype=torch.float64)

    def check(self) -> None:
        """Residuals 3 and 4 where observed, 100 in the hole: ``sqrt((9 + 16) / 2)``."""
        Ax = torch.tensor([3.0, 4.0, 100.0]).view(1, 1, 1, 3)
        observed = torch.tensor([True, True, False]).view(1, 1, 1, 3)
        expect(self.card.id, _rmse(Ax, torch.zeros_like(Ax), observed), 12.5**0.5)


def _rmse(Ax: Tensor, y: Tensor, mask: Tensor) -> float:
    squares = (Ax - y).abs().cpu().double().square()
    if y.ndim == 4 and y.shape[-2:] == mask.shape[-2:]:
        squares = squares[mask.cpu().expand(y.shape)]
    return squares.mean().sqrt().item()
