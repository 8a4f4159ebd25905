"""DING: every step multiplies the bridge to the next level with the measurement noised to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Process
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler

SCHEDULES = ("square", "default")


@dataclass(frozen=True)
class DING(Sampler):
    """Decoupled inpainting guidance of Moufad et al. (2026), and its delayed variant.

    Each step is a Gaussian with one closed form per coordinate: per pixel for a mask, per singular
    vector for another linear operator.

    Parameters
    ----------
    steps : int, default 50
        Number of steps of the grid.
    skip : int, default 2
        Number of the cleanest steps that one last prediction replaces, at least 1 and below
        ``steps``.
    schedule : str, default 'square'
        Standard deviation of a step: ``square`` is ``sigma (1 - alpha)``, ``default`` is
        ``sigma sqrt(1 - alpha)``.
    delayed : bool, default False
        Noise the measurement with the predicted noise of the present level. This saves the second
        network call at the next level.
    sigma_floor : float, default 0.01
        Lower bound on the noise level assumed for the measurement, 0 or more, in [-1, 1] units.
    clip : bool, default False
        Clip x0 to [-1, 1].
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'flow'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``skip`` or ``sigma_floor`` is out of range, or ``schedule`` is unknown.

    Notes
    -----
    It makes ``2 (steps - skip) + 1`` network calls; the delayed variant makes ``steps - skip + 1``.
    """

    card: ClassVar[Card] = Card(
        title="DING",
        paper="Moufad et al., Efficient Zero-Shot Inpainting with Decoupled Diffusion Guidance, "
        "ICLR 2026",
        equations="z_s ~ N(bridge mean, sd^2) N(alpha_s y + sigma_s eps(z~), alpha_s^2 sigma_y^2) "
        "with z~ a draw of the bridge",
        deviations=(
            "The paper has masks. For other operators the same product of Gaussians is formed per "
            "singular value.",
            "It works in pixels, on the observation itself. The released benchmark masks the "
            "encoding of the whole image, so hidden pixels reach its measurement.",
            "The standard deviation of a step depends on the coordinates: native for VP and flows; "
            "VP for VE, where it would vanish.",
            "The grid is even in sigma / (alpha + sigma), the time of a flow, for which the method "
            "was published.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "svd", "pixel"})
    version: ClassVar[int] = 2
    work: ClassVar[tuple[str, ...]] = ("steps", "skip")

    steps: int = 50
    skip: int = 2
    schedule: str = "square"
    delayed: bool = False
    sigma_floor: float = 0.01
    clip: bool = False
    guidance: float = 1.0
    grid: str = "flow"

    def __post_init__(self) -> None:
        if not 1 <= self.skip < self.steps:
            raise ValueError(
                f"skip must be at least 1 and below steps, got {self.skip} of {self.steps}"
            )
        if self.sigma_floor < 0:
            raise ValueError(f"sigma_floor must not be negative, got {self.sigma_floor}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule '{self.schedule}'; valid: {', '.join(SCHEDULES)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view("vp") if prior.process.kind == "ve" else prior
        shape, levels = prior.latent_shape, prior.grid(self.steps, self.grid)[: -self.skip]
        spectrum = obs.operator.spectrum(obs.y)
        measured, to = spectrum.solution(obs.y), spectrum.coordinates
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Take the bridge from the prediction to the next level.
            x0 = self._predict(z, t, obs, prior)
            eps, sd = prior.process.eps(z, x0, t), self._deviation(s)
            mean = s.alpha * x0 + math.sqrt(s.sigma**2 - sd**2) * eps
            # Predict the noise of a draw of it.
            if not self.delayed:
                guess = mean + sd * noise.normal(shape)
                eps = prior.process.eps(guess, self._predict(guess, s, obs, prior), s)
            # Noise the measurement with it, and draw from the product with the bridge.
            y_s = Process.add_noise(measured, s, to(eps))
            fresh = noise.normal(shape)
            z = spectrum.image(self._product(to(mean), sd, y_s, s, obs, spectrum.values, fresh))
        return self._predict(z, levels[-1], obs, prior)

    def _predict(self, z: Tensor, t: Level, obs: Observation, prior: Prior) -> Tensor:
        x0 = prior.denoise(z, t, obs.cond, self.guidance)
        return x0.clamp(-1, 1) if self.clip else x0

    def _deviation(self, s: Level) -> float:
        """Return the standard deviation of a step to ``s``; it is zero if ``alpha`` is 1."""
        share = 1 - s.alpha if self.schedule == "square" else math.sqrt(1 - s.alpha)
        return float(s.sigma * share)

    def _product(
        self,
        mean: Tensor,
        sd: float,
        y_s: Tensor,
        s: Level,
        obs: Observation,
        values: Tensor,
        fresh: Tensor,
    ) -> Tensor:
        """Draw from ``N(mean, sd^2)``, multiplied by the measurement; all in coordinates.

        The measurement at level ``s`` is ``N(y_s, (alpha_s sigma_y / values)^2)``, and says nothing
        where a value is 0.
        """
        spread = s.alpha * max(self.sigma_floor, obs.operator.sigma)
        var = (spread / torch.where(values > 0, values, 1.0)) ** 2
        gain = sd**2 / (sd**2 + var)
        left = (gain * var).sqrt()
        seen = mean + gain.to(mean) * (y_s - mean) + left.to(mean) * fresh
        return torch.where(values > 0, seen, mean + sd * fresh)
