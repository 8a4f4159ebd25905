"""FPS and FPS-SMC: a noisy copy of the measurement at every level, and particles that follow it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Scalar
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.particles import (
    denoise_coordinates,
    per_particle,
    resample,
)


@dataclass(frozen=True)
class FPS(Sampler):
    """Filtering posterior sampling of Dou and Song (2024): FPS and FPS-SMC.

    A chain of measurements ``y_t = alpha_t y + sigma_t A e_t`` is drawn first, as the noise of a
    DDIM chain. At every level the states are then drawn from the product of the prior's step and
    the likelihood of ``y_t``, in the coordinates of the singular vectors of ``A``. With several
    particles, each is weighted by the likelihood of the next ``y_t`` and the particles are drawn
    anew by weight (FPS-SMC). One particle has no weight (FPS).

    Parameters
    ----------
    steps : int, default 1000
        Number of noise levels.
    c : float, default 0.95
        Share of fresh noise in the variance of a step, in (0, 1]: 1 is fresh noise alone.
    particles : int, default 5
        States per reported sample, positive. A sample costs ``steps * particles`` network calls.
    together : int, default 8
        Particles per network call, positive. Memory grows with it; no result depends on it.
    sigma_floor : float, default 0.001
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    clip : bool, default False
        Clip x0 to [-1, 1].
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``c`` is outside (0, 1], or ``particles``, ``together`` or ``sigma_floor`` is not
        positive.
    """

    card: ClassVar[Card] = Card(
        title="FPS",
        paper="Dou and Song, Diffusion Posterior Sampling for Linear Inverse Problem Solving: A "
        "Filtering Perspective, ICLR 2024",
        equations="the chain of measurements, FPS and FPS-SMC, with c sigma_s^2 for the variance "
        "of fresh noise",
        deviations=(
            "Gain and weight have the same variance, and a state at a level is paired with the "
            "measurement of that level. The released code pairs it with the one of the noisier "
            "level, and mixes the factors alpha of both.",
            "The weight is the likelihood of the next measurement given the prior's step, in "
            "closed form. The released weight has the same value but for constants, computed from "
            "the drawn state.",
            "The first level makes a network call of its own; the released code spends it on the "
            "start.",
            "The last step has no fresh noise and so no pull: the sample is a prediction, and the "
            "last weight is its likelihood.",
            "One operator is used throughout. The released code measures with another resizer and "
            "blur than it solves with, and assumes noise of 0.05 whatever the measurement.",
            "Every draw has a chain of measurements and particles of its own. One particle is "
            "reported.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "svd", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 1000
    c: float = 0.95
    particles: int = 5
    together: int = 8
    sigma_floor: float = 0.001
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if not 0 < self.c <= 1:
            raise ValueError(f"c {self.c} is outside (0, 1]; 1 is fresh noise alone")
        for name in ("particles", "together", "sigma_floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, one = prior.process, (1, *prior.latent_shape)
        shape = (self.particles, *prior.latent_shape)
        levels, spectrum = prior.grid(self.steps, self.grid), obs.operator.spectrum(obs.y)
        data = _Measured(
            per_particle(spectrum.measured(obs.y)),
            per_particle(spectrum.exact),
            max(self.sigma_floor, obs.operator.sigma),
        )
        # Start from pure noise, pulled to the measurement with the noise of that level.
        e, top = noise.normal(one), levels[0]
        fresh, y_t = noise.normal(shape), data.noised(e, top)
        z = data.drawn(torch.zeros_like(fresh), top.sigma**2, y_t, top, fresh)
        for t, s in pairwise(levels):
            # Predict the clean image, and step down by DDIM.
            x0 = denoise_coordinates(
                prior, spectrum, z, t, self.together, obs.cond, self.guidance, self.clip
            )
            mean = process.add_noise(x0, s, math.sqrt(1 - self.c) * process.eps(z, x0, t))
            variance = self.c * s.sigma**2
            # Step down the measurement too.
            e = math.sqrt(1 - self.c) * e + math.sqrt(self.c) * noise.normal(one)
            y_s = data.noised(e, s)
            # Choose the particles that expect it.
            log_weight = data.log_likelihood(mean, variance, y_s, s)
            (mean,) = resample(log_weight, noise.uniform(shape[:1]), mean)
            # Add fresh noise, pulled to the measurement.
            z = data.drawn(mean, variance, y_s, s, noise.normal(shape))
        return spectrum.image(z[:, 0])


@dataclass(frozen=True)
class _Measured:
    """The measurement in the coordinates of the operator, ``y_i = s_i x_i + sigma n_i``.

    ``y`` is ``(N, 1, C, H, W)``; ``values``, the singular values, broadcast against it.
    """

    y: Tensor
    values: Tensor
    sigma: float

    def noised(self, e: Tensor, level: Level) -> Tensor:
        """Return the measurement of the state at ``level`` whose noise is ``e``."""
        return level.alpha * self.y + level.sigma * self.values.to(e) * e

    def log_likelihood(self, mean: Tensor, variance: Scalar, y: Tensor, level: Level) -> Tensor:
        """Return ``log p(y_t)`` ``(N, K)``, up to a constant, for states ``N(mean, variance)``."""
        spread = self._spread(variance, level)
        scaled = self._residual(mean, y) * spread.rsqrt().to(mean)
        return -0.5 * torch.where(self.values > 0, scaled, 0.0).square().flatten(2).sum(2)

    def drawn(
        self, mean: Tensor, variance: Scalar, y: Tensor, level: Level, noise: Tensor
    ) -> Tensor:
        """Return draws from ``N(mean, variance)`` times the likelihood of ``y_t``."""
        # a flow starts where the likelihood has no spread, and coordinates may not be measured
        seen, spread = self.values > 0, self._spread(variance, level)
        share = torch.where(seen, variance * self.values / spread, 0.0)
        left = torch.where(seen, variance * self._own(level) / spread, variance)
        pulled = mean + share.to(mean) * torch.where(seen, self._residual(mean, y), 0.0)
        return pulled + left.sqrt().to(mean) * noise

    def _own(self, level: Level) -> float:
        """Return the variance of ``y_t`` around the measured state."""
        return float(level.alpha * self.sigma) ** 2

    def _spread(self, variance: Scalar, level: Level) -> Tensor:
        return self.values**2 * variance + self._own(level)

    def _residual(self, mean: Tensor, y: Tensor) -> Tensor:
        return y - self.values.to(mean) * mean
