"""MMPS: predict the clean image from state and measurement, with the denoiser's own covariance.

Tweedie's formula gives that covariance from the Jacobian of the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.rows import column, dot

RATIO_MAX = 1e3
"""First level: a flow starts at alpha = 0, where the covariance sigma^2 / alpha J is 0 / 0."""


@dataclass(frozen=True)
class MMPS(Sampler):
    """Moment matching posterior sampling of Rozet et al. (2024), Section 4.2.

    It takes ``p(x0 | z_t)`` as a Gaussian with mean ``D(z_t)`` and covariance ``C = sigma_t^2 /
    alpha_t J``, where ``J`` is the Jacobian of the denoiser ``D``. Then ``E[x0 | z_t, y] = D + C At
    (sigma_y^2 I + A C At)^-1 (y - A D)``, which is exact for every Gaussian prior and linear ``A``.

    Parameters
    ----------
    steps : int, default 100
        Number of steps, one network call each.
    iterations : int, default 3
        Conjugate gradient steps per level, 1 or more, one backward pass each. As many as there are
        observed scalars solve the system exactly.
    tolerance : float, default 0.0001
        A row's iteration stops once its residual has shrunk by this factor, in [0, 1).
    sigma_floor : float, default 0.001
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    eta : float, default 1.0
        Share of fresh noise in each step, in [0, 1]: 1 is the ancestral step, 0 is DDIM.
    clip : bool, default False
        Clip the corrected x0 to [-1, 1].
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``eta``, ``iterations``, ``sigma_floor`` or ``tolerance`` is out of range.
    """

    card: ClassVar[Card] = Card(
        title="MMPS",
        paper="Rozet et al., Learning Diffusion Priors from Observations by Expectation "
        "Maximization, NeurIPS 2024",
        equations="Section 4.2: E[x0 | z_t, y] by Tweedie's covariance and conjugate gradients",
        deviations=(
            "C At v is summed up along the conjugate gradients: k steps cost k backward passes, "
            "not k + 1.",
            "Conjugate gradients need a symmetric positive J, which a trained network has only "
            "nearly. So a row stops at the first direction of non-positive curvature. Inner "
            "products are per sample.",
            "A measurement without noise gets a noise floor, because its system is singular. A "
            "flow starts at ratio 1000.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad", "linear", "pixel"})
    version: ClassVar[int] = 2

    steps: int = 100
    iterations: int = 3
    tolerance: float = 1e-4
    sigma_floor: float = 0.001
    eta: float = 1.0
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta {self.eta} is outside [0, 1]; 1 is ancestral sampling, 0 is DDIM"
            )
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not self.sigma_floor > 0:
            raise ValueError(f"sigma_floor must be positive, got {self.sigma_floor}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(
                f"tolerance {self.tolerance} is outside [0, 1); it is a fraction of the residual "
                "at the start"
            )

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        start = prior.level(min(process.ratio_max, RATIO_MAX))
        levels = prior.grid(self.steps, self.grid, start=start)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean image from the noisy one and the measurement.
            x0 = self._predict(z, t, obs, prior)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            # Step down.
            fresh = noise.normal(shape) if self.eta else None
            z = process.bridge(z, x0, t, s, self.eta, fresh)
        return z

    def _predict(self, z_t: Tensor, t: Level, obs: Observation, prior: Prior) -> Tensor:
        """Return ``E[x0 | z_t, y]`` of the Gaussian with the moments of ``p(x0 | z_t)``."""
        with torch.enable_grad():
            z_t = z_t.detach().requires_grad_()
            x0 = prior.denoise(z_t, t, obs.cond, self.guidance)

        def covariance(u: Tensor) -> Tensor:
            return t.sigma**2 / t.alpha * torch.autograd.grad(x0, z_t, u, retain_graph=True)[0]

        residual = obs.operator.residual(x0.detach(), obs.y)
        return x0.detach() + self._correction(covariance, residual, obs)

    def _correction(
        self, covariance: Callable[[Tensor], Tensor], r: Tensor, obs: Observation
    ) -> Tensor:
        """Return ``C At v`` with ``(sigma_y^2 I + A C At) v = r``.

        Each row has conjugate gradients of its own.
        """
        operator, variance = obs.operator, max(self.sigma_floor, obs.operator.sigma) ** 2
        correction, p, rr = torch.zeros_like(operator.At(r)), r, dot(r, r)
        goal = self.tolerance**2 * rr
        for _ in range(self.iterations):
            Cp = covariance(operator.At(p))
            q = variance * p + operator.A(Cp)
            curvature = dot(p, q)
            # A row stops if it is done, or if the system is not positive in its direction.
            moves = (rr > goal) & (curvature > 0)
            step = torch.where(moves, rr / curvature, 0.0)
            correction, r = correction + column(step, Cp) * Cp, r - column(step, r) * q
            rr, before = torch.where(moves, dot(r, r), 0.0), rr
            p = r + column(torch.where(moves, rr / before, 0.0), r) * p
        return correction
