"""ReSample: latent DDIM; optimisation makes the latent fit the data, resampling noises it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Scalar
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.levels import loop_grid
from posterior_bench.solvers.shared.likelihood import gradient, residual_norm, squares
from posterior_bench.solvers.shared.minimise import minimise

COMPAT = ("none", "released")


@dataclass(frozen=True)
class ReSample(Sampler):
    """Hard data consistency of Song et al. (2024), Algorithm 1.

    It takes place in VP coordinates, for every prior.

    Parameters
    ----------
    steps : int, default 500
        DDIM steps, one network call and one backward pass each, positive.
    scale : float, default 0.5
        Size of the guidance step: ``scale alpha_t^2`` along the gradient of the residual norm.
    every : int, default 10
        Steps from one optimisation to the next, in the last two thirds, positive.
    lookahead : int, default 5
        Plain DDIM steps before each optimisation, to a better estimate, positive.
    pixel_iterations : int, default 2000
        Adam steps of an optimisation in the middle third, on the image; the result is encoded.
    pixel_lr : float, default 0.01
        Learning rate of these steps, positive.
    latent_iterations : int, default 500
        Adam steps of an optimisation in the last third and at the end, on the latent, through the
        decoder.
    latent_lr : float, default 0.005
        Learning rate of these steps, positive.
    tolerance : float, default 1e-06
        Mean squared residual at which Adam stops.
    patience : int, default 200
        An optimisation of the latent stops if its loss is above the loss ``patience`` steps before,
        positive.
    variance : float, default 40.0
        Variance of the chain's state in the resampling, positive, in units of the ancestral step's
        variance. With a larger value a state follows the optimised latent more closely.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If a setting is not positive that must be, or ``compat`` is unknown.
    """

    card: ClassVar[Card] = Card(
        title="ReSample",
        paper="Song et al., Solving Inverse Problems with Latent Diffusion Models via Hard Data "
        "Consistency, ICLR 2024",
        equations="Algorithm 1 with the released code's guidance; resampling N(z; alpha_s z*, "
        "sigma_s^2) N(z; z', c) with c = variance times that of q(z_s | z_t, x0), the released "
        "choice written for every noise process",
        deviations=(
            "Each row has its own loss and stops on its own, also with compat=released. The "
            "released code shares both over the batch, so runs of one image are the same.",
            "The chain ends at zero noise, the released one at native index 0.",
        ),
        compat={
            "released": "The estimate of x0 has sigma^2 eps instead of sigma eps, in the guidance "
            "and at the start of every optimisation. In the lookahead the network is told the "
            "level of its input, but the coefficients are those of one level noisier. AdamW has a "
            "weight decay of 0.01, which shrinks the optimised image or latent, and takes one more "
            "step before it stops. Levels are every (1000 / steps)-th native index, from 1 up, and "
            "the chain ends at index 0. On golden runs of the released code, 3 x 4 x 4 with a "
            "mixture prior, samples were 0.021 apart before the lookahead and the last step were "
            "taken over; now 7e-16."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad", "latent"})
    version: ClassVar[int] = 2

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
        counts, rates = ("steps", "every", "lookahead", "patience"), ("pixel_lr", "latent_lr")
        for name in (*counts, *rates, "variance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior, third = prior.view("vp"), self.steps // 3
        process = prior.process
        levels = loop_grid(prior, self.steps, self.grid, self.compat, "leading_one")
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(prior.latent_shape)
        for left, (t, s) in zip(reversed(range(self.steps)), pairwise(levels), strict=True):
            # Take a DDIM step, then one towards the observation.
            x0, slope = self._predict(z, t, obs, prior)
            z = process.bridge(z, x0, t, s, eta=0.0, noise=None) - self.scale * t.alpha**2 * slope
            if 0 < left <= self.steps - third and left % self.every == 0:
                # Find a latent that agrees with the observation, near where the chain is going.
                estimate = self._look_ahead(z, levels[-left - 2 :], obs, prior)
                target = self._consistent(estimate, obs, prior, in_pixels=left >= third)
                # Draw a state of this level, given that latent and the state of the chain.
                variance = self.variance * process.transition(s, t).var
                z = resample(z, target, s, variance, noise.normal(z.shape[1:]))
        return prior.decode(self._consistent(z, obs, prior, in_pixels=False))

    def _predict(
        self, z_t: Tensor, t: Level, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """Return ``x0(z_t)`` and the gradient of the residual norm with respect to ``z_t``."""
        with torch.enable_grad():
            z_t = z_t.detach().requires_grad_()
            x0 = prior.denoise(z_t, t, obs.cond, self.guidance)
            x = prior.decode(self._estimate(z_t, x0, t))
            return x0.detach(), gradient(residual_norm(x, obs), z_t)

    def _look_ahead(
        self, z: Tensor, levels: Sequence[Level], obs: Observation, prior: Prior
    ) -> Tensor:
        """Return the last estimate of x0 of some plain DDIM steps.

        They start from ``z``, at the second of ``levels``.
        """
        process, levels = prior.process, levels[: self.lookahead + 2]
        for before, t, s in zip(levels, levels[1:], levels[2:], strict=False):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            if self.compat == "released":
                # The coefficients are those of the step before.
                eps, t, s = process.eps(z, x0, t), before, t
                x0 = (z - t.sigma * eps) / t.alpha
            estimate = self._estimate(z, x0, t)
            z = process.bridge(z, x0, t, s, eta=0.0, noise=None)
        return estimate

    def _estimate(self, z: Tensor, x0: Tensor, t: Level) -> Tensor:
        if self.compat == "none":
            return x0
        return z / t.alpha - t.sigma / t.alpha * (z - t.alpha * x0)

    def _consistent(self, x0: Tensor, obs: Observation, prior: Prior, in_pixels: bool) -> Tensor:
        """Return a latent near ``x0`` that agrees with the observation.

        Adam minimises the residual in the latent, or in pixels; then the image is encoded again.
        """
        late = self.compat == "released"
        decay, tolerance = 0.01 if late else 0.0, self.tolerance
        if in_pixels:
            loss, count = lambda x: squares(x, obs), self.pixel_iterations
            start = prior.decode(x0)
            x = minimise(loss, start, self.pixel_lr, count, tolerance, decay=decay, late=late)
            return prior.encode(x)
        loss, count = lambda z: squares(prior.decode(z), obs), self.latent_iterations
        return minimise(
            loss, x0, self.latent_lr, count, tolerance, self.patience, decay=decay, late=late
        )


def resample(z: Tensor, target: Tensor, s: Level, variance: Scalar, xi: Tensor) -> Tensor:
    """Draw from the product ``N(alpha_s target, sigma_s^2) N(z, variance)``, normalised.

    This is Proposition 1 of ReSample.

    Parameters
    ----------
    z : Tensor
        State of the chain at level ``s``, ``(N, C, H, W)``.
    target : Tensor
        A clean state, ``(N, C, H, W)``.
    s : Level
        The level.
    variance : Scalar
        Variance around ``z``; the larger it is, the less the draw depends on ``z``.
    xi : Tensor
        Standard normals ``(N, C, H, W)``.

    Returns
    -------
    Tensor
        States at level ``s``, ``(N, C, H, W)``.
    """
    total = variance + s.sigma**2
    mean = variance / total * s.alpha * target + s.sigma**2 / total * z
    return mean + (variance * s.sigma**2 / total) ** 0.5 * xi
