"""L-BFGS for a batch whose rows are problems of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from posterior_bench.solvers.shared.likelihood import gradient
from posterior_bench.solvers.shared.rows import column, dot

DESCENT = 1e-4
"""A step is taken if it lowers the loss by this share of what its slope promises (Armijo)."""

SHORTEST, LONGEST = 0.1, 0.5
"""A step that is not taken is shortened by a factor in this range."""

CURVED = 1e-6
"""A step says something about the curvature if the cosine between the step and the change of the
slope is above this number. A bound on their product would stop a row where the loss is flat."""

Pair = tuple[Tensor, Tensor, Tensor]


def lbfgs(
    loss: Callable[[Tensor], Tensor], x: Tensor, evaluations: int, history: int = 20
) -> Tensor:
    """Minimise a loss in every row, by L-BFGS with a line search that shortens steps.

    Parameters
    ----------
    loss : Callable
        It takes states ``(N, ...)`` and returns one number per row, ``(N,)``. A row's number
        depends on this row alone.
    x : Tensor
        Where to start, ``(N, ...)``.
    evaluations : int
        How often the loss and its gradient are computed, 1 or more; the same for all rows.
    history : int, default 20
        How many of the last evaluations are remembered, 0 or more.

    Returns
    -------
    Tensor
        For each row, the state with the lowest loss that was found. A row whose loss is NaN stays
        where it started.

    Notes
    -----
    Every evaluation serves all rows at once. A row that likes its trial takes it and turns; another
    row shortens its step. So rows differ in the number of their steps, and no row waits.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd edition, Algorithms 3.1 and 7.4.
    """
    value, slope = _evaluated(loss, x)
    # The first step has a length of at most 1, summed over the numbers of a row.
    scale = 1 / slope.abs().flatten(1).sum(1).clamp_min(1)
    direction, step = -column(scale, x) * slope, torch.ones_like(scale)
    pairs: deque[Pair] = deque(maxlen=history)
    for _ in range(evaluations - 1):
        trial = x + column(step, x) * direction
        found, turned = _evaluated(loss, trial)
        # Written so that a NaN is no descent.
        promised = step * dot(slope, direction)
        moves = found <= value + DESCENT * promised
        here = column(moves, x)
        # What the step says about the curvature.
        s, y = (torch.where(here, b - a, 0.0) for a, b in ((x, trial), (slope, turned)))
        sy, yy = dot(s, y), dot(y, y)
        curved = sy > CURVED * (dot(s, s) * yy).sqrt()
        scale = torch.where(curved, sy / yy, scale)
        pairs.append((s, y, torch.where(curved, 1 / sy, 0.0)))
        # Take the step, or shorten it to where a parabola has its minimum.
        shorter = (-0.5 * promised / (found - value - promised)).nan_to_num(nan=SHORTEST)
        step = torch.where(moves, 1.0, step * shorter.clamp(SHORTEST, LONGEST))
        x, slope = torch.where(here, trial, x), torch.where(here, turned, slope)
        value = torch.where(moves, found, value)
        direction = torch.where(here, -_product(slope, scale, pairs), direction)
    return x


def _product(slope: Tensor, scale: Tensor, pairs: deque[Pair]) -> Tensor:
    """Return the inverse Hessian times the slope; a pair with weight 0 says nothing."""
    q, weights = slope, []
    for s, y, rho in reversed(pairs):
        weights.append(rho * dot(s, q))
        q = q - column(weights[-1], q) * y
    r = column(scale, q) * q
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        r = r + column(weight - rho * dot(y, r), r) * s
    return r


def _evaluated(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = loss(x)
        return value.detach(), gradient(value, x)
