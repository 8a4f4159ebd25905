"""The noise levels above VIPaint's top keypoint, from which its prior term draws one interval at a
time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from posterior_bench.priors.process import Level, Process
from posterior_bench.solvers.shared.levels import seen_from


class Intervals:
    """Intervals ``(t, s)`` of a grid from the noisiest level down to ``top``, its last entry.

    ``law``: how one is drawn, ``uniform`` or ``importance``, in proportion to the root of the
    information about the top state that lies between its ends. That is near the optimum for the
    gradient: a quarter of the variance of ``uniform`` on a grid of 60 levels. ``whole``: whether
    the interval that ends at ``top`` counts. ``probabilities``: ``(count,)``, float64.
    ``constant``: what all intervals together owe to variances alone, per element; no posterior
    changes it. ``levels``: the grid.
    """

    def __init__(self, process: Process, top: Level, above: Sequence[Level], law: str, whole: bool):
        self.levels, self.whole = [*above[:-1], top], whole
        pairs = list(pairwise(self.levels))[: None if whole else -1]
        self.constant = 0.5 * sum(_spread(process, top, t, s) for t, s in pairs)
        gains = torch.tensor(
            [_gain(top, t, s) if law == "importance" else 1.0 for t, s in pairs],
            dtype=torch.float64,
        )
        self.probabilities = gains.sqrt() / gains.sqrt().sum()

    def draw(
        self, u: Tensor, rows: int, probabilities: Tensor | None = None
    ) -> tuple[Level, Level, Tensor]:
        """``(t, s)`` and one over its probability, for every row; ``u``: uniforms ``(N, 1)``, one
        per image.

        The rows of an image share one ``u`` and spread evenly over the distribution.
        ``probabilities`` ``(N, count)`` replace the law's own.
        """
        p = self.probabilities.expand(len(u), -1) if probabilities is None else probabilities
        per_image = rows // len(u)
        shifted = (
            u.double().cpu() + torch.arange(per_image, dtype=torch.float64) / per_image
        ) % 1.0
        cumulative = p.cumsum(1)
        k = torch.searchsorted(cumulative / cumulative[:, -1:], shifted, right=True)
        chosen, levels = k.flatten().tolist(), self.levels
        weight = 1 / p.gather(1, k).flatten()
        return (
            Level.stack([levels[i] for i in chosen]),
            Level.stack([levels[i + 1] for i in chosen]),
            weight,
        )


def _gain(top: Level, t: Level, s: Level) -> float:
    """Information about the top state between ``t`` and ``s``; for the first interval, what ``t``
    leaves out.
    """
    if s is top:
        return float(1 / top.ratio**2 - 1 / t.ratio**2)
    return float(1 / (s.ratio**2 - top.ratio**2) - 1 / (t.ratio**2 - top.ratio**2))


def _spread(process: Process, top: Level, t: Level, s: Level) -> float:
    """Twice the part of ``KL(q(z_s | z_t, z_top) || p(z_s | z_t))`` that no mean enters, per
    element.
    """
    var_p = float(process.transition(s, t).var)
    if s is top:  # q is the point z_top itself, so what counts is -log p(z_top | z_t)
        return math.log(2 * math.pi * var_p)
    ratio = float(process.transition(seen_from(top, s), seen_from(top, t)).var) / var_p
    return ratio - math.log(ratio) - 1
