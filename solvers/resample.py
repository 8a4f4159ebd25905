"""ReSample: latent DDIM with hard data consistency, found by optimisation and brought back by
stochastic resampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.consistency import mean_square, minimise, resample
from posterior_bench.solvers.shared.likelihood import gradient, residual_norm

COMPAT = ("none", "released")


@dataclass(frozen=True)
class ReSample(Sampler):
    """Hard data consistency of Song et al. (2024), Algorithm 1; in VP coordinates, whatever those
    of the prior.

    Parameters
    ----------
    steps : int, default 500
        DDIM steps, each with a backward pass.
    scale : float, default 0.5
        The guidance step is ``scale alpha_t^2`` along the gradient of the residual norm.
    every : int, default 10
        Steps from one consistency to the next, in the last two thirds.
    lookahead : int, default 5
        Plain DDIM steps before each, to a better estimate.
    pixel_iterations, pixel_lr : int or float, default 2000, 0.01
        Adam on the image, in the middle third; the result is encoded.
    latent_iterations, latent_lr : int or float, default 500, 0.005
        Adam through the decoder, in the last third and at the end.
    tolerance : float, default 1e-06
        Mean squared residual at which Adam stops.
    patience : int, default 200
        Latent iterations that must lower the loss or end.
    variance : float, default 40.0
        In units of the ancestral step's; the larger, the more a state follows the consistent
        latent.
    guidance : float, default 1.0
        Classifier-free guidance weight, 1 = none.
    grid : str, default 'native'
        Kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Notes
    -----
    Raises ValueError for counts and step sizes that are not positive, and an unknown compat.
    """

    card: ClassVar[Card] = Card(
        title="ReSample",
        paper="Song et al., Solving Inverse Problems with Latent Diffusion Models via Hard Data "
        "Consistency, ICLR 2024",
        equations="Algorithm 1 with the released code's guidance; resampling N(z; alpha_s z*, "
        "sigma_s^2) N(z; z', c) "
        "with c = variance times that of q(z_s | z_t, x0), the released choice written for every "
        "noise process",
        deviations=(
            "Losses and stopping are those of each row; in the released code those of the batch.",
            "The lookahead feeds the network its own level, the released one the next. The chain "
            "ends at zero noise.",
        ),
        compat={
            "released": "The released estimate of x0, with sigma^2 eps where sigma eps belongs, in "
            "guidance and at the "
            "start of every optimisation; and AdamW's weight decay of 0.01, which shrinks what is "
            "optimised."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad", "latent"})
    version: ClassVar[int] = 1

    steps: int = 500
    scale: float = 0.5
    every: int = 10
    lookahead: int = 5
    pixel_iterations: int = 2000
    pixel_lr: float = 1e-2
    latent_iterations: int = 500
    latent_lr: float = 5e-3
    tolerance: float = 1e-6
    patience: int = 200
    variance: float = 40.0
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "every",
            "lookahead",
            "pixel_lr",
            "latent_lr",
            "patience",
            "variance",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior, third = prior.view("vp"), self.steps // 3
        process, levels = prior.process, prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(prior.latent_shape)
        for left, (t, s) in zip(reversed(range(self.steps)), pairwise(levels), strict=True):
            # A DDIM step, then one towards the observation.
            x0, slope = self._predict(z, t, obs, prior)
            z = process.bridge(z, x0, t, s, eta=0.0, noise=None) - self.scale * t.alpha**2 * slope
            if 0 < left <= self.steps - third and left % self.every == 0:
                # A latent that agrees with the observation, near where the chain is going.
                estimate = self._look_ahead(z, levels[-left - 1 :], obs, prior)
                target = self._consistent(estimate, obs, prior, in_pixels=left >= third)
                # A state of this level, given that latent and where the chain stood.
                z = resample(
                    z,
                    target,
                    s,
                    self.variance * process.transition(s, t).var,
                    noise.normal(z.shape[1:]),
                )
        return prior.decode(self._consistent(z, obs, prior, in_pixels=False))

    def _predict(
        self, z_t: Tensor, t: Level, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """``x0(z_t)`` and the gradient of the residual norm with respect to ``z_t``."""
        with torch.enable_grad():
            z_t = z_t.detach().requires_grad_()
            x0 = prior.denoise(z_t, t, obs.cond, self.guidance)
            return x0.detach(), gradient(
                residual_norm(prior.decode(self._estimate(z_t, x0, t)), obs), z_t
            )

    def _look_ahead(
        self, z: Tensor, levels: Sequence[Level], obs: Observation, prior: Prior
    ) -> Tensor:
        """The estimate of x0 at the last of some plain DDIM steps from ``z``, at the first of
        ``levels``.
        """
        for t, s in pairwise(levels[: self.lookahead + 1]):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            z, estimate = (
                prior.process.bridge(z, x0, t, s, eta=0.0, noise=None),
                self._estimate(z, x0, t),
            )
        return estimate

    def _estimate(self, z: Tensor, x0: Tensor, t: Level) -> Tensor:
        return x0 if self.compat == "none" else z / t.alpha - t.sigma / t.alpha * (z - t.alpha * x0)

    def _consistent(self, x0: Tensor, obs: Observation, prior: Prior, in_pixels: bool) -> Tensor:
        """The minimum of the residual that Adam finds from ``x0``: in pixels and encoded again, or
        in the latent.
        """
        decay = 0.01 if self.compat == "released" else 0.0
        if in_pixels:
            loss, count = lambda x: mean_square(x, obs), self.pixel_iterations
            return prior.encode(
                minimise(loss, prior.decode(x0), self.pixel_lr, count, self.tolerance, decay=decay)
            )
        loss, count = lambda z: mean_square(prior.decode(z), obs), self.latent_iterations
        return minimise(loss, x0, self.latent_lr, count, self.tolerance, self.patience, decay)
