"""Drawing from a prior without any observation: to look at it, and to test it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.process import Level

METHODS = ("heun", "ddim", "ancestral")


class Normals(Protocol):
    """The part of a noise source a sampler needs."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normals of shape ``(rows, *shape)``."""


@torch.no_grad()
def sample(
    prior: Prior,
    levels: Sequence[Level],
    noise: Normals,
    cond: Condition | None = None,
    guidance: float = 1.0,
    method: str = "heun",
) -> Tensor:
    """Images ``(N, C, H, W)``, one per row of ``noise``, a function of ``noise`` alone; not
    clipped.

    ``levels``: a grid of :meth:`Prior.grid`, noisiest first; the chain starts at ``sigma`` times
    the first noise. ``method``: ``heun`` (second order, Karras et al. 2022, Algorithm 1; two
    evaluations a step, one in the last), ``ddim`` (deterministic) or ``ancestral`` (DDPM). Raises
    ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown sampler '{method}'; valid: {', '.join(METHODS)}")
    z = levels[0].sigma * noise.normal(prior.latent_shape).to(prior.device)
    for t, s in pairwise(levels):
        x0 = prior.denoise(z, t, cond, guidance)
        if method == "ancestral":
            z = prior.process.bridge(
                z, x0, t, s, 1.0, noise.normal(prior.latent_shape).to(z) if s.sigma else None
            )
        else:
            step = prior.process.bridge(z, x0, t, s, 0.0, None)
            z = _corrected(prior, z, x0, step, t, s, cond, guidance) if method == "heun" else step
    return prior.decode(z)


def _corrected(
    prior: Prior,
    z: Tensor,
    x0: Tensor,
    step: Tensor,
    t: Level,
    s: Level,
    cond: Condition | None,
    guidance: float,
) -> Tensor:
    """Heun's correction of an Euler step: the mean of the slopes at both ends, in ``d(z / alpha) /
    d(sigma / alpha)``.

    The clean end has no network, and at ``alpha = 0`` that coordinate does not exist: both keep the
    Euler step.
    """
    if s.sigma == 0 or t.alpha == 0:
        return step
    process = prior.process
    slope = (
        process.eps(z, x0, t) + process.eps(step, prior.denoise(step, s, cond, guidance), s)
    ) / 2
    a = s.alpha / t.alpha
    return a * z + (s.sigma - a * t.sigma) * slope
