"""What lies above the top keypoint: the KL between ``q(z_top)`` and the prior, by one random interval per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from priors.base import Condition, Prior
from priors.process import Level, Scalar


class Posterior(Protocol):
    """What this term needs of the chain."""

    levels: Sequence[Level]
    above: Sequence[Level]

    def kl(self, difference: Tensor, var_q: Scalar, var_p: Scalar) -> Tensor: ...

    def entropy(self, z: Tensor) -> Tensor: ...


def prior_term(
    chain: Posterior, z: Tensor, prior: Prior, cond: Condition | None, guidance: float, u: Tensor, xi: Tensor
) -> Tensor:
    """An unbiased draw of the KL between ``q(z_top)`` and the prior above it, ``(rows,)``, in nats.

    One interval ``(t, s)`` above the top keypoint per row, stratified over the rows of an image by ``u`` ``(N, 1)``;
    ``KL(q(z_s | z_t, z_top) || p(z_s | z_t))`` times the number of intervals, minus the entropy of ``q(z_top)``
    (VIPaint Eq. 33 to 37, with the entropy kept: without it the posterior collapses).
    """
    count = len(chain.above) - 2
    k = intervals(u, len(z), count)
    t, s = Level.stack([chain.above[i] for i in k]), Level.stack([chain.above[i + 1] for i in k])
    above_t, above_s = relative(t, chain.levels[0]), relative(s, chain.levels[0])
    z_t = prior.process.add_noise(z, above_t, xi)
    mean_q, var_q = prior.process.posterior(z_t, z, above_s, above_t)
    mean_p, var_p = prior.process.posterior(z_t, prior.denoise(z_t, t, cond, guidance), s, t)
    return count * chain.kl(mean_q - mean_p, var_q, var_p) - chain.entropy(z)


def boundary_terms(
    chain: Posterior, z: Tensor, prior: Prior, cond: Condition | None, guidance: float, xi: Tensor
) -> Tensor:
    """What :func:`prior_term` leaves out, under 1 % of the gradient; with it the loss bounds ``-log p(y)``, ``(rows,)``.

    The first step above the top keypoint, and the KL to ``N(0, sigma^2)`` at the noisiest level.
    """
    noisiest, t, top = chain.above[0], chain.above[-2], chain.levels[0]
    z_t = prior.process.add_noise(z, relative(t, top), xi)
    mean, var = prior.process.posterior(z_t, prior.denoise(z_t, t, cond, guidance), top, t)
    squares = (z - mean).square().flatten(1).sum(1)
    first = 0.5 * (squares / var + z[0].numel() * math.log(2 * math.pi * var))
    end = relative(noisiest, top)
    return first + chain.kl(end.alpha * z, end.sigma**2, noisiest.sigma**2)


def relative(t: Level, top: Level) -> Level:
    """The level ``t`` seen from ``top`` as if that were clean: ``q(z_t | z_top) = N(alpha z_top, sigma^2)``."""
    alpha = t.alpha / top.alpha
    return Level(alpha, (t.sigma**2 - alpha**2 * top.sigma**2) ** 0.5, t.t)


def intervals(u: Tensor, rows: int, count: int) -> list[int]:
    """One of ``count`` intervals per row: the rows of an image share ``u`` and are spread evenly over them."""
    if count < 1:
        raise ValueError("prior_levels must be at least 2: the prior term needs levels above the top keypoint")
    per_image = rows // len(u)
    shifts = torch.arange(per_image, dtype=torch.float64) / per_image
    return (((u.double().cpu() + shifts) % 1.0) * count).long().clamp_max(count - 1).flatten().tolist()
