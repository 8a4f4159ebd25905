"""Drawing images from a prior without any observation, to look at it and to test it."""

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
    """The part of a noise source that a sampler needs."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard-normal numbers of shape ``(rows, *shape)``."""


@torch.no_grad()
def sample(
    prior: Prior,
    levels: Sequence[Level],
    noise: Normals,
    cond: Condition | None = None,
    guidance: float = 1.0,
    method: str = "heun",
) -> Tensor:
    """Draw images from a prior.

    Parameters
    ----------
    prior : Prior
        The prior.
    levels : Sequence[Level]
        A grid of :meth:`Prior.grid`, noisiest first. The chain starts at ``sigma`` times the first
        noise.
    noise : Normals
        The only source of randomness; one row per image.
    cond : Condition or None, default None
        Condition of the rows.
    guidance : float, default 1.0
        Weight of classifier-free guidance.
    method : str, default 'heun'
        ``heun`` (second order, Karras et al. 2022, Algorithm 1; two evaluations per step, one in
        the last), ``ddim`` (deterministic) or ``ancestral`` (DDPM).

    Returns
    -------
    Tensor
        Images ``(N, C, H, W)``, not clipped.

    Raises
    ------
    ValueError
        If ``method`` is unknown.
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
    """Apply Heun's correction to an Euler step: use the mean of the slopes at both ends.

    The slopes are taken in ``d(z / alpha) / d(sigma / alpha)``. The clean end has no network, and
    at ``alpha = 0`` this coordinate does not exist; there the Euler step stays.
    """
    if s.sigma == 0 or t.alpha == 0:
        return step
    process = prior.process
    slope = (
        process.eps(z, x0, t) + process.eps(step, prior.denoise(step, s, cond, guidance), s)
    ) / 2
    a = s.alpha / t.alpha
    return a * z + (s.sigma - a * t.sigma) * slope
