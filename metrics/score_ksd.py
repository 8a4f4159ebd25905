"""Compute a kernel Stein discrepancy from the score of the exact posterior."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard


class ScoreKSD(DrawMetric):
    """Squared kernel Stein discrepancy between the draws and the exact posterior, unbiased.

    It needs the score of the posterior and no samples of it. The kernel is the inverse
    multiquadric ``(c^2 + |x - x'|^2)^(-1/2)``, with the median distance of the draws as ``c``. The
    value is the mean over pairs of different draws (a U-statistic). It is 0 on average for exact
    draws, so it may fall below 0 by chance. A method that misses a well-separated mode goes
    unnoticed: read mode weights beside it. The value is NaN for one draw, if most draws are equal,
    and for a posterior without a score.
    """

    card = MetricCard(
        id="score_ksd",
        title="Score KSD, squared",
        direction="down",
        unit="[-1, 1] units to the power -3",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="raw output, not rounded; score of the exact posterior; float64",
        source="Liu, Lee, Jordan: A kernelized Stein discrepancy for goodness-of-fit tests, ICML "
        "2016; Gorham, Mackey: Measuring sample quality with kernels, ICML 2017; for posterior "
        "samplers: arXiv 2602.04189",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "reference"})
    reference: ClassVar[float] = -0.261553

    @override
    def score(self, draws: Draws) -> float:
        if draws.scores is None or len(draws.x) < 2:
            return math.nan
        width = torch.pdist(draws.x).median().item()
        if not width > 0:
            return math.nan
        stein = stein_kernel(draws.x, draws.scores(), width)
        count = len(stein)
        return ((stein.sum() - stein.trace()) / (count * (count - 1))).item()


def stein_kernel(x: Tensor, score: Tensor, width: float) -> Tensor:
    """Return the Stein kernel of the inverse multiquadric between all pairs.

    Parameters
    ----------
    x : Tensor
        Points ``(n, d)``.
    score : Tensor
        Gradients of the log density at the points, ``(n, d)``.
    width : float
        The ``c`` of the kernel, above 0.

    Returns
    -------
    Tensor
        ``(n, n)``: ``s' s k + s' grad_x' k + s(x')' grad_x k + tr(grad_x grad_x' k)``.
    """
    apart = x[:, None] - x
    squares = apart.square().sum(-1)
    base = width**2 + squares
    pull = ((score[:, None] - score) * apart).sum(-1)
    trace = x.shape[1] * base**-1.5 - 3 * squares * base**-2.5
    return score @ score.T * base**-0.5 + pull * base**-1.5 + trace
