"""DiffPIR: a proximal step pulls every prediction to the measurement, and its noise follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler

COMPAT = ("none", "released")


@dataclass(frozen=True)
class DiffPIR(Sampler):
    """Plug-and-play image restoration with a diffusion model, Zhu et al. (2023), Algorithm 1.

    Parameters
    ----------
    steps : int, default 100
        Number of steps, one network call each.
    lam : float, default 1.0
        Weight of the prediction against the measurement in the proximal step, positive.
    zeta : float, default 1.0
        Share of fresh noise in the variance of a step, in [0, 1]: 1 is fresh noise alone, 0 is
        DDIM.
    sigma_floor : float, default 0.001
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    clip : bool, default True
        Clip x0 to [-1, 1], before the proximal step.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If ``zeta`` is outside [0, 1], ``lam`` or ``sigma_floor`` is not positive, or ``compat`` is
        unknown.
    """

    card: ClassVar[Card] = Card(
        title="DiffPIR",
        paper="Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, CVPRW "
        "NTIRE 2023",
        equations="Algorithm 1: proximal step with rho_t = lam sigma_n^2 / (sigma_t / alpha_t)^2, "
        "then Eq. 14",
        deviations=(
            "The grid is the prior's own. The released code takes the square root of evenly spaced "
            "squared training steps (its 'quad' skip), which a prior without training steps does "
            "not have.",
            "The output is not pasted. The released code pastes the measurement after it has kept "
            "the image that it scores.",
        ),
        compat={
            "released": "Start from the noised first guess (y for a mask) instead of pure noise, "
            "and leave out the proximal step of the last network call."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prox", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 100
    lam: float = 1.0
    zeta: float = 1.0
    sigma_floor: float = 0.001
    clip: bool = True
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.zeta <= 1:
            raise ValueError(
                f"zeta {self.zeta} is outside [0, 1]; 1 is fresh noise alone, 0 is DDIM"
            )
        for name in ("lam", "sigma_floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        levels = prior.grid(self.steps, self.grid)
        released = self.compat == "released"
        sigma_n = max(self.sigma_floor, obs.operator.sigma)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        if released:
            z = levels[0].alpha * obs.operator.first_guess(obs.y) + z
        for t, s in pairwise(levels):
            # Predict the clean image.
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            # Pull it to the measurement, less so at noisier levels.
            if not (released and s is levels[-1]):
                x0 = obs.operator.prox(x0, obs.y, self.lam * (sigma_n / t.ratio) ** 2)
            # Step down, with the noise between corrected prediction and state, and fresh noise.
            kept = math.sqrt(1 - self.zeta) * process.eps(z, x0, t)
            z = process.add_noise(x0, s, kept + math.sqrt(self.zeta) * noise.normal(shape))
        return z
