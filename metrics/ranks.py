"""Rank the truth among the draws, for the calibration metrics.

If truth and draws come from the same posterior, they can be exchanged. The rank of the truth in any
quantity that does not distinguish them is then uniform on ``0..D``, exactly and for every number of
draws and images (Talts et al., 2018). A rank is kept as an interval of [0, 1] of width
``1 / (D + 1)``, wider by one such step for every draw that equals the truth. This is what breaking
ties at random would give on average, without the randomness.

Draws of the prior are also calibrated in every quantity that does not follow the measurement (Lemos
et al., 2023, Section 3; Modrák et al., 2023). SBC and TARP therefore use quantities that follow it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_bench.metrics.base import Draws

Array = NDArray[np.float64]

FUNCTIONS = 16
"""Number of quantities ranked per image."""

LEVELS = np.arange(1, 20) / 20
"""Levels at which the distribution of ranks is compared with the uniform one."""

SOURCE = (
    "Talts, Betancourt, Simpson, Vehtari, Gelman: Validating Bayesian Inference "
    "Algorithms with SBC, 2018"
)
_GREY_LEVELS = 127.5


def rank_intervals(values: Tensor, truth: Tensor) -> Tensor:
    """Compute the interval of the truth's rank.

    Parameters
    ----------
    values : Tensor
        ``(D, F)``: quantities of the draws.
    truth : Tensor
        ``(F,)``: the same quantities of the truth.

    Returns
    -------
    Tensor
        float64 ``(F, 2)``: lower and upper end, from 0 to 1.
    """
    below, up_to = (values < truth).sum(0), (values <= truth).sum(0)
    return torch.stack([below, up_to + 1], dim=1).double() / (len(values) + 1)


def share_below(intervals: Array, levels: Array) -> Array:
    """Compute the fraction of each interval below each level.

    Parameters
    ----------
    intervals : NDArray
        ``(..., 2)``.
    levels : NDArray
        ``(L,)``.

    Returns
    -------
    NDArray
        ``(..., L)``, from 0 to 1.
    """
    low, high = intervals[..., :1], intervals[..., 1:]
    return np.clip((levels - low) / (high - low), 0.0, 1.0)


def unpack(features: Array) -> Array:
    """Reshape stored features ``(n, 2 F)`` to intervals ``(n, F, 2)``."""
    return features.reshape(len(features), -1, 2)


def comparable(draws: Draws) -> tuple[Tensor, Tensor]:
    """Return the hidden values of draws and truth, rounded to grey levels if the truth is.

    An 8-bit image holds its background exactly, a network only approximately; without rounding, the
    truth would always rank first. Rounding both keeps them exchangeable. A truth that is not on a
    grid of grey levels is left as it is.

    Parameters
    ----------
    draws : Draws
        All draws of one image.

    Returns
    -------
    x : Tensor
        ``(D, h)``.
    truth : Tensor
        ``(h,)``.
    """
    x, truth = draws.x[:, draws.hidden], draws.truth[draws.hidden]
    levels = (draws.truth + 1) * _GREY_LEVELS
    on_grid = ((levels - levels.round()).abs() < 1e-3).all()
    is_8_bit = bool(on_grid and (draws.truth.abs() <= 1).all())
    return (_rounded(x), _rounded(truth)) if is_8_bit else (x, truth)


def _rounded(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * _GREY_LEVELS).round()


def squared_gap(below: Array, weights: Array) -> Array:
    """Estimate the mean squared gap between ranks and uniform ranks without bias.

    Only pairs of different images are multiplied, even in a resample that holds an image twice.

    Parameters
    ----------
    below : NDArray
        ``(n, F, L)``: :func:`share_below` of :data:`LEVELS`.
    weights : NDArray
        ``(B, n)``: how often each image counts.

    Returns
    -------
    NDArray
        ``(B,)``: 1 is the worst value; calibrated draws have 0 on average. NaN for one image.
    """
    gap = below - LEVELS
    flat = gap.reshape(len(gap), -1)
    pairs = (weights @ flat) ** 2 - weights**2 @ flat**2
    count = weights.sum(1) ** 2 - (weights**2).sum(1)
    worst = np.mean((1 - LEVELS) ** 2)
    return np.divide(
        pairs.mean(1), count * worst, out=np.full(len(weights), np.nan), where=count > 0
    )


@cache
def uniform_points(count: int, d: int) -> Tensor:
    """Return points ``(count, d)``, uniform on [-1, 1], the same in every run."""
    generator = torch.Generator().manual_seed(d)
    return 2 * torch.rand(count, d, generator=generator, dtype=torch.float64) - 1


@cache
def directions(count: int, d: int) -> Tensor:
    """Return unit vectors ``(count, d)``, uniform on the sphere, the same in every run."""
    normal = torch.randn(count, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    return normal / normal.norm(dim=1, keepdim=True)
