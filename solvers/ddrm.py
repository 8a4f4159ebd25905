"""DDRM: sampling in the spectral space of the operator, which for a mask is the image itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler


@dataclass(frozen=True)
class DDRM(Sampler):
    """Denoising diffusion restoration models of Kawar et al. (2022), Eq. 7 and 8, for masks.

    Parameters
    ----------
    steps : int, default 100
        Number of steps, one network call each.
    eta : float, default 0.85
        Share of fresh noise, in [0, 1], for hidden pixels, and for observed pixels once the state
        is cleaner than the measurement; 0 is DDIM.
    eta_b : float, default 1.0
        Weight of the measurement against the prediction in the next state, in [0, 1]; 1 in the
        paper's experiments.
    clip : bool, default False
        Clip x0 to [-1, 1].
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``eta`` or ``eta_b`` is outside [0, 1]; in a run, if the measurement is noisier than the
        first level.
    """

    card: ClassVar[Card] = Card(
        title="DDRM",
        paper="Kawar et al., Denoising Diffusion Restoration Models, NeurIPS 2022",
        equations="Eq. 7 (start) and Eq. 8 (step), with the singular values 1 (observed) and 0 "
        "(hidden) of a mask",
        deviations=(
            "Masks only. Their spectral space is the image itself, so this case is exact. Other "
            "linear operators would need their singular value decomposition, and are refused.",
            "Levels run evenly from the noisiest to the cleanest of the prior; the released code "
            "takes every (1000 / steps)-th training step and starts below the noisiest.",
            "Here eta multiplies the noise level, not the posterior deviation: eta = 1 is not "
            "ancestral sampling.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"mask", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 100
    eta: float = 0.85
    eta_b: float = 1.0
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        for name in ("eta", "eta_b"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is outside [0, 1]")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        shape, levels = prior.latent_shape, prior.grid(self.steps, self.grid)
        top, sigma_y = levels[0], obs.operator.sigma
        if top.ratio < sigma_y:
            raise ValueError(
                f"the measurement noise {sigma_y} exceeds the noisiest level of the prior, "
                f"{top.ratio:.4g}; DDRM has no start for it: give a smaller operator.sigma"
            )
        # Start from pure noise in the hole, and from the measurement noised further around it.
        fresh = noise.normal(shape)
        observed = self._observed(obs.y, obs.y, top, sigma_y, fresh, weight=1.0)
        z = obs.operator.paste(top.sigma * fresh, observed)
        for t, s in pairwise(levels):
            # Predict the clean image.
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            # Step down: in the hole freely, around it towards the measurement, with equal noise.
            fresh = noise.normal(shape)
            hidden = self._mixed(x0, prior.process.eps(z, x0, t), s, fresh)
            z = obs.operator.paste(hidden, self._measured(x0, obs, s, fresh))
        return z

    def _measured(self, x0: Tensor, obs: Observation, s: Level, fresh: Tensor) -> Tensor:
        """Return the next state of observed pixels.

        It is drawn towards the measurement; below the measurement's noise it is drawn past it.
        """
        sigma_y = obs.operator.sigma
        if s.ratio >= sigma_y:
            return self._observed(x0, obs.y, s, sigma_y, fresh, self.eta_b)
        return self._mixed(x0, (obs.y - x0) / sigma_y, s, fresh)

    def _mixed(self, x0: Tensor, eps: Tensor, s: Level, fresh: Tensor) -> Tensor:
        """Return ``x0`` at level ``s``; its noise mixes ``eps`` with fresh noise."""
        kept = math.sqrt(1 - self.eta**2) * s.sigma * eps
        return s.alpha * x0 + kept + self.eta * s.sigma * fresh

    @staticmethod
    def _observed(
        x0: Tensor, y: Tensor, s: Level, sigma_y: float, fresh: Tensor, weight: float
    ) -> Tensor:
        """Return ``(1 - weight) x0 + weight y`` at level ``s``.

        The noise that ``y`` already carries is not added again.
        """
        left = max(s.sigma**2 - (s.alpha * weight * sigma_y) ** 2, 0.0)
        return s.alpha * ((1 - weight) * x0 + weight * y) + math.sqrt(left) * fresh
