"""TDS: particles that follow a guided proposal and are weighted so that the guidance leaves no
bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import gaussian_nll, gradient

RATIO_MAX = 1e3  # the pull of the measurement is 0 / 0 at the alpha = 0 from which a flow starts


@dataclass(frozen=True)
class TDS(Sampler):
    """Twisted diffusion sampler of Wu et al. (2023), Algorithm 1: sequential Monte Carlo, one run
    per sample.

    The twist ``N(y; A x0(z_t), sigma_y^2 + r_t^2)`` guides the proposal and weights what comes of
    it; its last one is the likelihood itself, so that samples tend to the posterior of the
    discretised prior as ``particles`` grows.

    Parameters
    ----------
    steps : int, default 100
        Noise levels.
    particles : int, default 64
        States per reported sample, so that a sample costs ``steps * particles`` network calls,
        each with a backward pass.
    together : int, default 8
        Particles of one network call; memory grows with it and no result depends on it.
    data_std : float, default 1.0
        Standard deviation of the data, which gives ``r_t^2 = data_std^2 sigma^2 / (data_std^2
        alpha^2 + sigma^2)``; EDM priors have 0.5.
    sigma_floor : float, default 0.01
        Noise the measurement is taken to have at least, in [-1, 1] units.
    clip : bool, default False
        Clip x0 to [-1, 1], inside the gradient; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight, 1 = none; the gradient goes through both branches.
    grid : str, default 'native'
        Kind of :meth:`priors.base.Prior.grid`.

    Notes
    -----
    Raises ValueError for ``particles``, ``together``, ``data_std`` or ``sigma_floor`` that are not
    positive.
    """

    card: ClassVar[Card] = Card(
        title="TDS",
        paper="Wu et al., Practical and Asymptotically Exact Conditional Sampling in Diffusion "
        "Models, NeurIPS 2023",
        equations="Algorithm 1, with the variance of the twist of Section 3.3 in closed form for "
        "Gaussian data",
        deviations=(
            "Particles are resampled at every level, independently of each other. The reported "
            "sample is one of them, "
            "drawn by weight; others of the same run would depend on it.",
            "The twist of the last level is the likelihood, because the sample is its prediction.",
            "A measurement without noise is given a floor: no weighted particle would meet it. A "
            "flow starts at ratio "
            "1000, not at pure noise.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1

    steps: int = 100
    particles: int = 64
    together: int = 8
    data_std: float = 1.0
    sigma_floor: float = 0.01
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        for name in ("particles", "together", "data_std", "sigma_floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, (self.particles, *prior.latent_shape)
        levels = prior.grid(
            self.steps, self.grid, start=prior.level(min(process.ratio_max, RATIO_MAX))
        )
        # Start from pure noise, weighted by the first twist.
        z = levels[0].sigma * noise.normal(shape)
        x0, twist, slope = self._predict(z, levels, 0, obs, prior)
        log_weight = twist
        for i, (t, s) in enumerate(pairwise(levels[:-1])):
            # Choose the particles that go on.
            z, x0, twist, slope = _resample(
                log_weight, noise.uniform(shape[:1]), z, x0, twist, slope
            )
            # Propose their next states: the prior's step, pulled to the measurement.
            mean, var = process.posterior(z, x0, s, t)
            pull = process.transition(s, t).c0 * t.sigma**2 / t.alpha * slope
            fresh = noise.normal(shape)
            z = mean + pull + math.sqrt(var) * fresh
            # Weight them by the prior over the proposal, and by the new twist over the old.
            log_weight = (
                -(pull * (pull / (2 * var) + fresh / math.sqrt(var))).flatten(2).sum(2) - twist
            )
            x0, twist, slope = self._predict(z, levels, i + 1, obs, prior)
            log_weight = log_weight + twist
        # Report one particle, drawn by weight.
        return prior.decode(_resample(log_weight, noise.uniform((1,)), x0)[0][:, 0])

    def _predict(
        self, z: Tensor, levels: Sequence[Level], i: int, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``x0(z_t)``, log twist ``(N, K)`` and its slope for particles ``(N, K, C, H, W)``, some
        at a time.
        """
        t, sigma_y = levels[i], max(self.sigma_floor, obs.operator.sigma)
        last = i == len(levels) - 2
        r2 = (
            0.0
            if last
            else (self.data_std * t.sigma) ** 2 / ((self.data_std * t.alpha) ** 2 + t.sigma**2)
        )
        found = []
        for some in z.split(self.together, dim=1):
            seen = obs.repeat(some.shape[1])
            with torch.enable_grad():
                z_t = some.flatten(0, 1).requires_grad_()
                x0 = prior.denoise(z_t, t, seen.cond, self.guidance)
                x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
                twist = -gaussian_nll(prior.decode(x0), seen, math.sqrt(sigma_y**2 + r2))
                slope = gradient(twist, z_t)
            found.append(
                [value.detach().unflatten(0, some.shape[:2]) for value in (x0, twist, slope)]
            )
        x0, twist, slope = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return x0, twist, slope


def _resample(log_weight: Tensor, uniform: Tensor, *states: Tensor) -> list[Tensor]:
    """``M`` of ``K`` particles per row by weight ``(N, K)``, one for each uniform ``(N, M)``, of
    every state.
    """
    # a particle that is no number has no weight
    weight = log_weight.double().nan_to_num(nan=-math.inf).softmax(1)
    k = torch.searchsorted(weight.cumsum(1), uniform.double(), right=True).clamp_max(
        weight.shape[1] - 1
    )
    rows = torch.arange(len(k), device=k.device)[:, None]
    return [state[rows, k] for state in states]
