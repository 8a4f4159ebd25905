"""DAPS: at every level, solve the flow to the data, sample around its end given y, and add fresh noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from priors.base import Prior
from priors.process import CLEAN, Level
from solvers.base import Card, Noise, Observation, Sampler
from solvers.likelihood import gaussian_nll, gradient

COMPAT = ("none", "released")


@dataclass(frozen=True)
class DAPS(Sampler):
    """Decoupled annealing posterior sampling of Zhang et al. (2025), Algorithm 1, with Langevin dynamics in pixels.

    Parameters
    ----------
    steps: annealing levels. ode_steps: Euler steps of the probability flow at each of them, so that there are
    ``steps * ode_steps`` network calls. langevin_steps: inner steps at each level, no network call. lr: their step
    size at the first level. lr_end: the last level's, as a share of that. tau: standard deviation of the likelihood, in
    [-1, 1] units, whatever the noise of the measurement. ratio_max, ratio_min: first and last annealing level.
    ode_ratio: where the flow stops. guidance: classifier-free guidance weight, 1 = none. compat: ``none`` or
    ``released``.

    The inner steps are stable for ``lr |A|^2 / tau^2`` below 2 (1 in the released code). Raises ValueError for counts
    below 1, settings that are not positive, levels out of order, and an unknown compat.
    """

    card: ClassVar[Card] = Card(
        title="DAPS",
        paper="Zhang et al., Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing, CVPR 2025",
        equations="Algorithm 1: probability flow, Langevin dynamics on p(x0 | z_t, y) with p(x0 | z_t) taken as "
        "N(x0(z_t), sigma_t^2 I), then z_s ~ N(x0, sigma_s^2 I)",
        deviations=(
            "The data term is the Gaussian log likelihood with standard deviation tau.",
            "Levels above the noisiest one of the prior are left out: an EDM prior starts at 80, not at 100.",
            "A row that turns NaN fails alone; the released code sets the whole batch to zero.",
            "Pixels only. Over-dispersed even with an exact inner sampler, because of the isotropic p(x0 | z_t).",
        ),
        compat={"released": "The data term without its factor 1/2: the standard deviation is tau / sqrt(2)."},
    )
    needs: ClassVar[frozenset[str]] = frozenset({"pixel"})
    version: ClassVar[int] = 1

    steps: int = 200
    ode_steps: int = 5
    langevin_steps: int = 100
    lr: float = 5e-5
    lr_end: float = 0.01
    tau: float = 0.01
    ratio_max: float = 100.0
    ratio_min: float = 0.1
    ode_ratio: float = 0.01
    guidance: float = 1.0
    compat: str = "none"

    def __post_init__(self) -> None:
        for name in ("steps", "ode_steps", "langevin_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "lr_end", "tau", "ode_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.ode_ratio <= self.ratio_min < self.ratio_max:
            raise ValueError(
                f"levels out of order: ode_ratio <= ratio_min < ratio_max must hold, got {self.ode_ratio}, "
                f"{self.ratio_min} and {self.ratio_max}"
            )
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior, shape = prior.view("ve"), prior.latent_shape
        start, end = prior.level(self.ratio_max), prior.level(self.ratio_min)
        levels = [*prior.grid(self.steps, "karras", start, end)[:-1], CLEAN]
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for k, (t, s) in enumerate(pairwise(levels)):
            # Where the probability flow leads.
            x0 = self._flow(z, t, obs, prior)
            # A sample around it, given the measurement.
            x = self._langevin(x0, t, self.lr * (1 + k / self.steps * (self.lr_end - 1)), obs, noise)
            # Fresh noise of the next level: the next state depends on this one through the sample alone.
            z = prior.process.add_noise(x, s, noise.normal(shape))
        return z

    def _flow(self, z: Tensor, start: Level, obs: Observation, prior: Prior) -> Tensor:
        """The end of the probability-flow ODE from ``z``, by Euler steps in sigma, which are DDIM steps."""
        for t, s in pairwise(prior.grid(self.ode_steps, "karras", start, prior.level(self.ode_ratio))):
            z = prior.process.bridge(z, prior.denoise(z, t, obs.cond, self.guidance), t, s, eta=0.0, noise=None)
        return z

    def _langevin(self, x0: Tensor, t: Level, lr: float, obs: Observation, noise: Noise) -> Tensor:
        """Unadjusted Langevin dynamics on ``N(x; x0, sigma_t^2 I) p(y | x)``, started at ``x0``."""
        x = x0
        for _ in range(self.langevin_steps):
            slope = self._data_slope(x, obs) + (x - x0) / t.sigma**2
            x = x - lr * slope + math.sqrt(2 * lr) * noise.normal(x.shape[1:])
        return x

    def _data_slope(self, x: Tensor, obs: Observation) -> Tensor:
        """The gradient of ``-log p(y | x)``, through the operator and not through any network."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            slope = gradient(gaussian_nll(x, obs, self.tau), x)
        return 2 * slope if self.compat == "released" else slope
