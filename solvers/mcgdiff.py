"""MCG-Diff: particles that are led to the noisy law of every measured coordinate, and weighted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.spectrum import Spectrum
from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Scalar, sent
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.particles import (
    denoise_coordinates,
    per_particle,
    resample,
)


@dataclass(frozen=True)
class MCGDiff(Sampler):
    """Monte Carlo guided diffusion of Cardoso et al. (2024): sequential Monte Carlo for ``A``.

    In the coordinates of the singular vectors of ``A``, a measured coordinate is ``y_i / s_i`` with
    noise ``sigma_y / s_i``. This is a state at the level ``tau_i`` of that ratio but for a factor.
    At ``tau_i`` and noisier levels, the state is drawn from the product of the prior's step and the
    forward law from there, and weights correct that; at cleaner levels it moves freely. Samples
    tend to the posterior as ``particles`` and ``steps`` grow.

    Parameters
    ----------
    steps : int, default 100
        Number of noise levels.
    particles : int, default 64
        States per reported sample, positive. A sample costs ``steps * particles`` network calls.
    together : int, default 8
        Particles per network call, positive. Memory grows with it; no result depends on it.
    kappa : float, default 0.0001
        Least variance of a measured coordinate around the measurement at its level ``tau_i``,
        positive, in units of the variance-preserving state.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``particles``, ``together`` or ``kappa`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="MCG-Diff",
        paper="Cardoso et al., Monte Carlo guided Denoising Diffusion models for Bayesian linear "
        "inverse problems, ICLR 2024",
        equations="Algorithm 1, for measurements without noise and with noise",
        deviations=(
            "tau_i is the first level of the grid that is not noisier than the coordinate; the "
            "noise that it lacks is added to the variance there. On a level that has just that "
            "noise this is the paper's law. The released code takes the nearest level as if it "
            "had the noise of the measurement, or adds levels.",
            "The released code ends with a weight that replaces the law at tau by the likelihood "
            "of the sample. States that kappa holds together are too narrow for that, and the "
            "weight has an infinite variance. It is left out: the measurement has counted at tau.",
            "Singular values below the operator's rcond count as hidden.",
            "Particles are resampled at every level, independently of each other. One particle is "
            "reported, drawn by weight; others of the same run would depend on it.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "svd", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 100
    particles: int = 64
    together: int = 8
    kappa: float = 1e-4
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        for name in ("particles", "together", "kappa"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        x, log_weight = self.ensemble(obs, prior, noise)
        # Report one particle, drawn by weight.
        (x,) = resample(log_weight, noise.uniform((1,)), x)
        return obs.operator.spectrum(obs.y).image(x[:, 0])

    def ensemble(self, obs: Observation, prior: Prior, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw all particles of every row, with their weights.

        Parameters
        ----------
        obs : Observation
            ``N`` rows.
        prior : Prior
            The prior.
        noise : Noise
            The source of randomness, with ``N`` rows.

        Returns
        -------
        x : Tensor
            Coordinates ``(N, K, C, H, W)`` of the particles.
        log_weight : Tensor
            Logarithms of their weights ``(N, K)``, up to a constant per row.
        """
        prior = prior.view("vp")
        process, shape = prior.process, (self.particles, *prior.latent_shape)
        spectrum, levels = obs.operator.spectrum(obs.y), prior.grid(self.steps, self.grid)
        data = _Measured.of(obs, spectrum, levels, self.kappa)
        # Start from pure noise, led to the law of the measurement.
        fresh = noise.normal(shape)
        z = data.led(torch.zeros_like(fresh), levels[0].sigma ** 2, levels[0], fresh)
        for t, s in pairwise(levels):
            # Predict the clean image, and take the prior's step.
            x0 = denoise_coordinates(prior, spectrum, z, t, self.together, obs.cond, self.guidance)
            mean, variance = process.posterior(z, x0, s, t)
            # Weight the particles by how well they expect the law of the next level.
            gained = data.log_law(mean, variance, s) - data.log_law(z, 0.0, t)
            log_weight = torch.where(data.leads(s), gained, 0.0).flatten(2).sum(2)
            if s is levels[-1]:
                return mean, log_weight
            # Choose the particles that go on, and step down, led to that law.
            (mean,) = resample(log_weight, noise.uniform(shape[:1]), mean)
            z = data.led(mean, variance, s, noise.normal(shape))
        raise AssertionError("a grid has at least one step")


@dataclass(frozen=True)
class _Measured:
    """The law of the measured coordinates at every level, in variance-preserving states.

    All tensors broadcast against particles ``(N, K, C, H, W)``: the measured coordinate ``y``; the
    ratio sigma/alpha of its level ``tau``, infinite where nothing is measured; and the variance of
    the law at ``tau``.
    """

    y: Tensor
    tau: Tensor
    variance: Tensor

    @classmethod
    def of(
        cls, obs: Observation, spectrum: Spectrum, levels: Sequence[Level], kappa: float
    ) -> _Measured:
        """Return the law of a measurement on a grid of levels."""
        values = per_particle(spectrum.values)
        noise = torch.where(values > 0, obs.operator.sigma / values, 0.0)
        ratios = torch.tensor([level.ratio for level in reversed(levels)], dtype=torch.float64)
        ratios = sent(ratios, values.device)
        # The first level that is not noisier, but for round-off; or the last one.
        below = torch.searchsorted(ratios, noise * (1 + 1e-9), right=True) - 1
        tau = ratios[below.clamp_min(0)]
        variance = ((noise**2 - tau**2) / (1 + tau**2)).clamp_min(kappa)
        tau = torch.where(values > 0, tau, math.inf)
        return cls(per_particle(spectrum.solution(obs.y)), tau, variance)

    def leads(self, level: Level) -> Tensor:
        """Return where the law leads the states of a level."""
        return self.tau <= level.ratio if level.alpha > 0 else self.tau.isfinite()

    def log_law(self, mean: Tensor, variance: Scalar, level: Level) -> Tensor:
        """Return the log density of the law for states ``N(mean, variance)``, up to a constant."""
        spread = (self._variance(level) + variance).rsqrt()
        return -0.5 * (spread.to(mean) * (mean - level.alpha * self.y)).square()

    def led(self, mean: Tensor, variance: Scalar, level: Level, noise: Tensor) -> Tensor:
        """Return draws from ``N(mean, variance)`` times the law, where it leads."""
        share = variance / (variance + self._variance(level))
        pulled = mean + share.to(mean) * (level.alpha * self.y - mean)
        return pulled + (variance * (1 - share)).sqrt().to(mean) * noise

    def _variance(self, level: Level) -> Tensor:
        """Return the variance of the law at a level; infinite where it does not lead."""
        # q(z_t | z_tau) with alpha_tau^2 = 1 / (1 + tau^2), and the variance at tau.
        step = level.sigma**2 - (level.alpha * self.tau) ** 2
        law = step.clamp_min(0) + level.alpha**2 * (1 + self.tau**2) * self.variance
        return torch.where(self.leads(level), law, math.inf)
