"""TDS: particles follow a guided proposal; their weights undo the bias of the guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import gaussian_nll, gradient
from posterior_bench.solvers.shared.particles import resample

RATIO_MAX = 1e3
"""First level: a flow starts at alpha = 0, where the pull of the measurement is 0 / 0."""


@dataclass(frozen=True)
class TDS(Sampler):
    """Twisted diffusion sampler of Wu et al. (2023), Algorithm 1: sequential Monte Carlo.

    There is one run per sample. The twist ``N(y; A x0(z_t), sigma_y^2 + r_t^2)`` guides the
    proposal and weights the proposed states. The last twist is the likelihood itself, so samples
    tend to the posterior of the discretised prior as ``particles`` grows.

    Parameters
    ----------
    steps : int, default 100
        Number of noise levels.
    particles : int, default 64
        States per reported sample, positive. A sample costs ``steps * particles`` network calls,
        each with a backward pass.
    together : int, default 8
        Particles per network call, positive. Memory grows with it; no result depends on it.
    data_std : float, default 1.0
        Standard deviation of the data, positive, in [-1, 1] units; it gives ``r_t^2 = data_std^2
        sigma^2 / (data_std^2 alpha^2 + sigma^2)``. EDM priors have 0.5.
    sigma_floor : float, default 0.01
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    clip : bool, default False
        Clip x0 to [-1, 1], inside the gradient; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``particles``, ``together``, ``data_std`` or ``sigma_floor`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="TDS",
        paper="Wu et al., Practical and Asymptotically Exact Conditional Sampling in Diffusion "
        "Models, NeurIPS 2023",
        equations="Algorithm 1, with the variance of the twist of Section 3.3 in closed form for "
        "Gaussian data",
        deviations=(
            "Particles are resampled at every level, independently of each other. One particle is "
            "reported, drawn by weight; others of the same run would depend on it.",
            "The twist of the last level is the likelihood, because the sample is its prediction.",
            "A measurement without noise gets a noise floor: no particle with a weight would meet "
            "it.",
            "A flow starts at ratio 1000, not at pure noise.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 2

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

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, (self.particles, *prior.latent_shape)
        start = prior.level(min(process.ratio_max, RATIO_MAX))
        levels = prior.grid(self.steps, self.grid, start=start)
        # Start from pure noise, weighted by the first twist.
        z = levels[0].sigma * noise.normal(shape)
        x0, twist, slope = self._predict(z, levels, 0, obs, prior)
        log_weight = twist
        for i, (t, s) in enumerate(pairwise(levels[:-1])):
            # Choose the particles that go on.
            uniform = noise.uniform(shape[:1])
            z, x0, twist, slope = resample(log_weight, uniform, z, x0, twist, slope)
            # Propose their next states: the prior's step, pulled to the measurement.
            mean, var = process.posterior(z, x0, s, t)
            pull = process.transition(s, t).c0 * t.sigma**2 / t.alpha * slope
            fresh = noise.normal(shape)
            z = mean + pull + math.sqrt(var) * fresh
            # Weight them by the prior over the proposal, and by the new twist over the old.
            density = -(pull * (pull / (2 * var) + fresh / math.sqrt(var))).flatten(2).sum(2)
            log_weight = density - twist
            x0, twist, slope = self._predict(z, levels, i + 1, obs, prior)
            log_weight = log_weight + twist
        # Report one particle, drawn by weight.
        return prior.decode(resample(log_weight, noise.uniform((1,)), x0)[0][:, 0])

    def _predict(
        self, z: Tensor, levels: Sequence[Level], i: int, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x0(z_t)``, the log twist ``(N, K)`` and its gradient for all particles.

        States and gradients are ``(N, K, C, H, W)``; the network sees some particles at a time.
        """
        t, sigma_y = levels[i], max(self.sigma_floor, obs.operator.sigma)
        r2 = (self.data_std * t.sigma) ** 2 / ((self.data_std * t.alpha) ** 2 + t.sigma**2)
        last = i == len(levels) - 2
        if last:
            r2 = 0.0
        parts = []
        for some in z.split(self.together, dim=1):
            seen = obs.repeat(some.shape[1])
            with torch.set_grad_enabled(not last):
                z_t = some.flatten(0, 1).requires_grad_()
                x0 = prior.denoise(z_t, t, seen.cond, self.guidance)
                x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
                twist = -gaussian_nll(prior.decode(x0), seen, math.sqrt(sigma_y**2 + r2))
                # No state is proposed from the last level.
                slope = torch.zeros_like(z_t) if last else gradient(twist, z_t)
            values = (value.detach() for value in (x0, twist, slope))
            parts.append([value.unflatten(0, some.shape[:2]) for value in values])
        x0, twist, slope = (torch.cat(values, dim=1) for values in zip(*parts, strict=True))
        return x0, twist, slope
