"""FLOWER: predict, refine by the measurement, and add fresh noise, along a flow."""

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

REFINE = ("mean", "draw")


@dataclass(frozen=True)
class Flower(Sampler):
    """FLOWER of Pourya, El Rawas and Unser (2025), and its variant with covariance.

    It takes ``p(x0 | z_t)`` as ``N(D(z_t), nu_t^2 I)`` with ``nu_t^2 = sigma_t^2 / (alpha_t^2 +
    sigma_t^2)``. With the measurement this is a Gaussian again: its mean is a proximal step of the
    operator with ``rho = sigma_y^2 / nu_t^2``.

    Parameters
    ----------
    steps : int, default 100
        Number of steps, one network call each.
    refine : str, default 'mean'
        What follows the prediction: ``mean``, the mean of this Gaussian, or ``draw``, a draw from
        it (FLOWER-cov).
    samples : int, default 1
        Number of independent runs whose mean is returned, each with all steps. The mean of several
        is no draw of the posterior.
    sigma_floor : float, default 0.01
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'uniform_time'
        Law of the noise levels: a kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``refine`` is unknown, ``samples`` is below 1, or ``sigma_floor`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="FLOWER",
        paper="Pourya et al., FLOWER: A Flow-Matching Solver for Inverse Problems, 2025",
        equations="The three steps of the method: prediction, refinement by a Gaussian of variance "
        "nu_t^2, and interpolation with fresh noise",
        deviations=(
            "The refinement is the proximal step of the operator, which is exact for masks and "
            "circular blurs. The released code makes 50 conjugate gradients at every level, for "
            "all operators.",
            "A draw (refine=draw) is the proximal step of a noisy prediction and a noisy "
            "measurement, which has the same law as the released one.",
            "A measurement without noise gets a noise floor.",
            "With refine=mean the spread stays below that of the posterior however many steps are "
            "made; with refine=draw it converges to it on a Gaussian prior.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "prox", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 100
    refine: str = "mean"
    samples: int = 1
    sigma_floor: float = 0.01
    guidance: float = 1.0
    grid: str = "uniform_time"

    def __post_init__(self) -> None:
        if self.refine not in REFINE:
            raise ValueError(f"unknown refine '{self.refine}'; valid: {', '.join(REFINE)}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not self.sigma_floor > 0:
            raise ValueError(f"sigma_floor must be positive, got {self.sigma_floor}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        levels = prior.grid(self.steps, self.grid)
        runs = [self._run(levels, obs, prior, noise) for _ in range(self.samples)]
        return torch.stack(runs).mean(0)

    def _run(self, levels: Sequence[Level], obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean image, and refine it by the measurement.
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = self._refined(x0, t, obs, noise)
            # Step down with fresh noise.
            z = process.add_noise(x0, s, noise.normal(shape))
        return z

    def _refined(self, x0: Tensor, t: Level, obs: Observation, noise: Noise) -> Tensor:
        """Return the mean of the prediction's Gaussian given the measurement, or a draw."""
        nu = t.sigma / math.hypot(t.alpha, t.sigma)
        sigma_y, y = max(self.sigma_floor, obs.operator.sigma), obs.y
        if self.refine == "draw":
            x0 = x0 + nu * noise.normal(x0.shape[1:])
            y = y + sigma_y * noise.normal(y.shape[1:])
        return obs.operator.prox(x0, y, (sigma_y / nu) ** 2)
