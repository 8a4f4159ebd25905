"""Hard data consistency, for ReSample: the nearest minimum of the residual, and the way back to a
noise level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posterior_bench.priors.process import Level, Scalar
from posterior_bench.solvers.base import Observation


def mean_square(x: Tensor, obs: Observation) -> Tensor:
    """The mean of ``(y - A x)^2`` over all scalars of ``y``, hidden ones as zeros, shape
    ``(N,)``.
    """
    return obs.operator.residual(x, obs.y).square().flatten(1).mean(1)


def minimise(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    lr: float,
    iterations: int,
    tolerance: float,
    patience: int = 0,
    decay: float = 0.0,
) -> Tensor:
    """Where at most ``iterations`` steps of Adam lead from ``start`` ``(N, C, H, W)``; ``loss``
    gives one per row.

    A row stands still from the first time that its loss is below ``tolerance``, or above what it
    was ``patience`` steps ago (0 = never looked at); all rows are evaluated until the last one
    stands still. ``decay`` is AdamW's.
    """
    u = start.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([u], lr=lr, weight_decay=decay)
    done = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    history: list[Tensor] = []
    for step in range(iterations):
        with torch.enable_grad():
            losses = loss(u)
            (u.grad,) = torch.autograd.grad(losses.sum(), u)
        history.append(losses.detach())
        done = done | ~(history[step] >= tolerance)  # a row that is NaN is done too
        if patience and step >= patience:
            done = done | (history[step] > history[step - patience])
        if done.all():
            break
        kept = u.detach().clone()
        optimiser.step()
        with torch.no_grad():
            u.copy_(torch.where(done.view(-1, 1, 1, 1), kept, u))
    return u.detach()


def resample(z: Tensor, target: Tensor, s: Level, variance: Scalar, xi: Tensor) -> Tensor:
    """A draw of the normalised product ``N(alpha_s target, sigma_s^2) N(z, variance)`` (ReSample,
    Proposition 1).

    ``target``: a clean state; ``z``: where the chain stands at level ``s``, and how far that is to
    be trusted; ``xi``: standard normals like ``z``.
    """
    total = variance + s.sigma**2
    mean = variance / total * s.alpha * target + s.sigma**2 / total * z
    return mean + (variance * s.sigma**2 / total) ** 0.5 * xi
