"""The noise levels above VIPaint's top keypoint, and the law that draws one interval of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from posterior_bench.priors.process import Level, Process
from posterior_bench.solvers.shared.levels import seen_from


class Intervals:
    """Intervals ``(t, s)`` between neighbouring levels, from the noisiest down to the top keypoint.

    Parameters
    ----------
    process : Process
        Noise process of the prior.
    top : Level
        The top keypoint, which ends the last interval.
    above : Sequence[Level]
        Levels from the noisiest down to the top keypoint; the last one is replaced by ``top``.
    law : str
        How an interval is drawn. ``uniform``: all are equally likely. ``importance``: in proportion
        to the square root of the information about the top state that the interval adds. This is
        near the optimum for the gradient: on a grid of 60 levels, its variance is a quarter of that
        of ``uniform``.
    whole : bool
        Whether the interval that ends at ``top`` counts.

    Attributes
    ----------
    levels : list[Level]
        The levels, noisiest first.
    probabilities : Tensor
        Probability of every interval, float64 ``(count,)``.
    constant : float
        The part of the sum of all KL terms, per element, that depends on variances alone. No
        posterior changes it.
    """

    def __init__(self, process: Process, top: Level, above: Sequence[Level], law: str, whole: bool):
        self.levels, self.whole = [*above[:-1], top], whole
        pairs = list(pairwise(self.levels))[: None if whole else -1]
        self.constant = 0.5 * sum(_spread(process, top, t, s) for t, s in pairs)
        gains = [_gain(top, t, s) if law == "importance" else 1.0 for t, s in pairs]
        roots = torch.tensor(gains, dtype=torch.float64).sqrt()
        self.probabilities = roots / roots.sum()

    def draw(
        self, u: Tensor, rows: int, probabilities: Tensor | None = None
    ) -> tuple[Level, Level, Tensor]:
        """Draw one interval per row.

        The rows of an image share one uniform number and spread evenly over the distribution.

        Parameters
        ----------
        u : Tensor
            Uniform numbers on [0, 1), ``(N, 1)``, one per image, on the host.
        rows : int
            Number of rows, a multiple of ``N``; the rows of an image lie together.
        probabilities : Tensor | None, default None
            Probabilities ``(N, count)`` that replace :attr:`probabilities`.

        Returns
        -------
        t : Level
            The noisier end of every row's interval.
        s : Level
            The other end.
        weight : Tensor
            One over the probability of the interval, float64 ``(rows,)``.
        """
        p = self.probabilities.expand(len(u), -1) if probabilities is None else probabilities
        per_image = rows // len(u)
        offsets = torch.arange(per_image, dtype=torch.float64) / per_image
        shifted = (u.double() + offsets) % 1.0
        cumulative = p.cumsum(1)
        k = torch.searchsorted(cumulative / cumulative[:, -1:], shifted, right=True)
        chosen = k.flatten().tolist()
        t = Level.stack([self.levels[i] for i in chosen])
        s = Level.stack([self.levels[i + 1] for i in chosen])
        return t, s, 1 / p.gather(1, k).flatten()


def _gain(top: Level, t: Level, s: Level) -> float:
    """Return the information about the top state that ``s`` has beyond ``t``.

    For the interval that ends at the top state, only the information that ``t`` lacks is finite.
    """
    if s is top:
        return float(1 / top.ratio**2 - 1 / t.ratio**2)
    return float(1 / (s.ratio**2 - top.ratio**2) - 1 / (t.ratio**2 - top.ratio**2))


def _spread(process: Process, top: Level, t: Level, s: Level) -> float:
    """Return twice the part of ``KL(q(z_s | z_t, z_top) || p(z_s | z_t))`` without means.

    It is a number per element.
    """
    var_p = float(process.transition(s, t).var)
    if s is top:
        # q is the point z_top itself, so the term is -log p(z_top | z_t).
        return math.log(2 * math.pi * var_p)
    ratio = float(process.transition(seen_from(top, s), seen_from(top, t)).var) / var_p
    return ratio - math.log(ratio) - 1
