"""PnP-Flow: a step to the measurement, noise, and the denoiser of a flow, in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import data_slope


@dataclass(frozen=True)
class PnPFlow(Sampler):
    """Plug-and-play image restoration with flow matching, Martin et al. (2025).

    With ``u = sigma / (alpha + sigma)``, which is one minus the time of the paper, a level makes
    ``x - step u^weight At(A x - y)``, adds noise, and denoises.

    Parameters
    ----------
    steps : int, default 100
        Number of noise levels, ``samples`` network calls each.
    samples : int, default 1
        Number of noisy states that are denoised at every level and averaged. More of them bring
        the result nearer to one image per measurement, and it has less spread.
    weight : float, default 1.0
        Exponent of the step to the measurement, 0 or more: 0 is one step length at all levels.
    step : float, default 1.0
        Length of this step at ``u = 1``, 0 or more. The loop is stable below 2 for operators of
        norm 1, as masks and blurs are. On a latent prior the gradient goes through the decoder.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'uniform_time'
        Law of the noise levels: a kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``samples`` is below 1, or ``weight`` or ``step`` is negative.
    """

    card: ClassVar[Card] = Card(
        title="PnP-Flow",
        paper="Martin et al., PnP-Flow: Plug-and-Play Image Restoration with Flow Matching, ICLR "
        "2025",
        equations="Algorithm 3: gradient step with (1 - t)^weight, interpolation with noise, "
        "denoiser D_t",
        deviations=(
            "It gives a point estimate, not samples: every level replaces the state by a mean of "
            "denoised images, so the spread of its draws is far below that of the posterior.",
            "The noise level of the measurement does not enter: in the released code it cancels.",
            "The gradient of the squared residual is taken for every operator and decoder. The "
            "released code has At, which is the same for a linear operator, and a sign for Laplace "
            "noise, which is left out.",
            "A prior that was not trained from pure noise starts at its noisiest level, with the "
            "state at zero there.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1

    steps: int = 100
    samples: int = 1
    weight: float = 1.0
    step: float = 1.0
    guidance: float = 1.0
    grid: str = "uniform_time"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        for name in ("weight", "step"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        shape, levels = prior.latent_shape, prior.grid(self.steps, self.grid)[:-1]
        x = obs.y.new_zeros((obs.n, *shape))
        for t in levels:
            # Step to the measurement, less so at cleaner levels.
            u = t.sigma / (t.alpha + t.sigma)
            x = x - self.step * u**self.weight * data_slope(x, obs, prior)
            # Add noise, and denoise.
            x = self._denoised(x, t, obs, prior, noise)
        return prior.decode(x)

    def _denoised(
        self, x: Tensor, t: Level, obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Return the mean of ``samples`` denoised states that were noised to ``t``."""
        total = torch.zeros_like(x)
        for _ in range(self.samples):
            z = prior.process.add_noise(x, t, noise.normal(prior.latent_shape))
            total = total + prior.denoise(z, t, obs.cond, self.guidance)
        return total / self.samples
