"""DiffPIR: a proximal step pulls every prediction to the measurement, and its noise follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.levels import loop_grid

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
            "The noise level in rho_t is that of the measurement in [-1, 1] units, as in the "
            "paper. The released code halves it, so its lam is four times the lam here.",
            "The output is not pasted. The released code pastes the measurement after it has kept "
            "the image that it scores.",
            "The released deblurring and super-resolution measure with periodic borders, and blur "
            "rounded images.",
        ),
        compat={
            "released": "rho_t takes half the noise level. The start is the measurement, a mask's "
            "with -1 in the hole, counted as the state at the level of its noise and noised to the "
            "first level. The sample is the state at the cleanest level, which the last network "
            "call leaves as it is. grid=native has evenly spaced squared training steps ('quad') "
            "on a prior that has 1000. On golden runs of the released code, 3 x 4 x 4 with a "
            "mixture prior and a mask, samples were up to 0.091 apart before, with zeta 0.3 and "
            "noise 0.05, where the units make 0.047 and the hole 0.15; now 3e-15. Super-resolution "
            "starts from the bicubic enlargement, and other measurements that are no images from "
            "the first guess; no golden run has them."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prox", "pixel"})
    version: ClassVar[int] = 2

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
        process, shape, released = prior.process, prior.latent_shape, self.compat == "released"
        levels = loop_grid(prior, self.steps, self.grid, self.compat, "quad")
        sigma_y = obs.operator.sigma
        # The released code compares a noise level in [0, 1] units with levels in [-1, 1] units.
        sigma_n = max(self.sigma_floor, sigma_y / 2 if released else sigma_y)
        # Start from pure noise, or as released from the measurement noised further.
        fresh, top = noise.normal(shape), levels[0]
        if released:
            z = process.renoise(_start(obs, prior), _nearest(prior, sigma_y), top, fresh)
        else:
            z = top.sigma * fresh
        for t, s in pairwise(levels):
            if released and s is levels[-1]:
                return z  # the released code predicts once more, and throws that away
            # Predict the clean image.
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            # Pull it to the measurement, less so at noisier levels.
            x0 = obs.operator.prox(x0, obs.y, self.lam * (sigma_n / t.ratio) ** 2)
            # Step down, with the noise between corrected prediction and state, and fresh noise.
            kept = math.sqrt(1 - self.zeta) * process.eps(z, x0, t)
            z = process.add_noise(x0, s, kept + math.sqrt(self.zeta) * noise.normal(shape))
        return z


def _start(obs: Observation, prior: Prior) -> Tensor:
    """Return the image that the released code starts from."""
    height, width = prior.image_shape[1:]
    if obs.operator.mask is not None:
        return obs.operator.paste(torch.full_like(obs.y, -1), obs.y)  # the hole is black
    if obs.y.ndim != 4:
        return obs.operator.first_guess(obs.y)
    if obs.y.shape[2:] == (height, width):
        return obs.y
    return interpolate(obs.y, (height, width), mode="bicubic")


def _nearest(prior: Prior, sigma: float) -> Level:
    """Return the level nearest to ``sigma``, at a whole training step if the prior has them."""
    level = prior.level(sigma)
    index = prior.process.index(level)
    if math.isnan(index):
        return level
    slack = 1e-9  # round-off of a whole index must not lead past the ends
    around = {math.floor(index + slack), math.ceil(index - slack)}
    return min(map(prior.level_at_index, around), key=lambda near: abs(float(near.ratio) - sigma))
