"""CoPaint: before every deterministic step down, the state is optimised until its prediction fits
the observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import gradient
from posterior_bench.solvers.shared.walk import walk

VIEWS = ("native", "vp", "ve")


@dataclass(frozen=True)
class CoPaint(Sampler):
    """CoPaint of Zhang et al. (2023), Algorithm 1, one-step predictions; CoPaint-TT with
    ``resamples`` above 1.

    Each level minimises ``|y - A x0(z)|^2 + weight |z - z_t|^2``, sums over an image, by gradient
    descent with step ``lr lr_decay^k alpha_t / alpha_0`` at level ``k`` counted from the noisiest;
    the last level is not denoised.

    Parameters
    ----------
    steps : int, default 250
        Levels of the grid.
    iterations : int, default 2
        Gradient steps per level.
    lr, lr_decay : float, default 0.02, 1.012
        Their size and its growth per level.
    scale_lr : bool, default True
        Multiply it by ``alpha_t / alpha_0``.
    weight, weight_decay : float, default 0.01, 1.0
        Pull to the state before, and its growth.
    line_search : int, default 10
        How often a step that raises a row's loss is shrunk by 0.8 before the row stays; 0
        accepts every step.
    jump_length, resamples : int, default 10, 1
        Time travel as in RePaint, 1 resample is none.
    view : str, default 'vp'
        Coordinates of the state, ``native``, ``vp`` or ``ve``; lr means something else in each.
    clip : bool, default True
        Clip x0 to [-1, 1], inside the gradient; latents never are.
    guidance : float, default 1.0
        Classifier-free guidance weight, 1 = none, also inside.
    grid : str, default 'native'
        Kind of :meth:`priors.base.Prior.grid`.

    Notes
    -----
    Raises ValueError for fewer than 2 steps, an impossible schedule, an unknown view and negative
    settings.
    """

    card: ClassVar[Card] = Card(
        title="CoPaint and CoPaint-TT",
        paper="Zhang et al., Towards Coherent Image Inpainting Using Denoising Diffusion Implicit "
        "Models, ICML 2023",
        equations="Algorithm 1 with the one-step prediction of the clean image; time travel for "
        "CoPaint-TT",
        deviations=(
            "Loss, step size and acceptance belong to a row; the released code shares them over "
            "the batch.",
            "The line search is bounded (the released one loops for ever on a NaN); a try is one "
            "call for all rows.",
            "The graph of the accepted step is kept: 1 + iterations network calls per level, not 1 "
            "+ 2 iterations.",
            "VP coordinates by default, also for EDM priors, where alpha_t = 1 / sqrt(1 + "
            "sigma^2).",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("steps", "jump_length")
    growth: ClassVar[tuple[str, ...]] = ("lr_decay", "weight_decay")
    margin: ClassVar[float] = 0.1

    steps: int = 250
    iterations: int = 2
    lr: float = 0.02
    lr_decay: float = 1.012
    scale_lr: bool = True
    weight: float = 0.01
    weight_decay: float = 1.0
    line_search: int = 10
    jump_length: int = 10
    resamples: int = 1
    view: str = "vp"
    clip: bool = True
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"unknown view '{self.view}'; valid: {', '.join(VIEWS)}")
        least = {
            "steps": 2,
            "iterations": 0,
            "lr": 0,
            "lr_decay": 0,
            "weight": 0,
            "weight_decay": 0,
            "line_search": 0,
        }
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name} must be {bound} or more, got {getattr(self, name)}")
        walk(
            self.steps, self.jump_length, self.resamples
        )  # refuses an impossible schedule before any work

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view(self.view)
        process, shape, levels = (
            prior.process,
            prior.latent_shape,
            prior.grid(self.steps, self.grid),
        )
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for i, j in walk(self.steps, self.jump_length, self.resamples)[:-1]:
            t, s = levels[i], levels[j]
            # Optimise the state, so that its prediction fits the observation.
            lr = (
                self.lr
                * self.lr_decay**i
                * (float(t.alpha / levels[-2].alpha) if self.scale_lr else 1.0)
            )
            z, x0 = self._optimise(z, t, lr, self.weight * self.weight_decay**i, obs, prior)
            # Step down with the noise of the network, or travel back up.
            if j > i:
                z = process.bridge(
                    z, self._clipped(x0, prior), t, s, 0.0, None, eps=process.eps(z, x0, t)
                )
            else:
                z = process.renoise(z, t, s, noise.normal(shape))
        return prior.decode(z)

    def _clipped(self, x0: Tensor, prior: Prior) -> Tensor:
        return x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0

    @torch.enable_grad()
    def _optimise(
        self, z_t: Tensor, t: Level, lr: float, w: float, obs: Observation, prior: Prior
    ) -> list[Tensor]:
        """The optimised state and its prediction."""

        def loss(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = z.detach().requires_grad_()
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            r = obs.operator.residual(prior.decode(self._clipped(x0, prior)), obs.y)
            return z, x0, r.square().flatten(1).sum(1) + w * (z - z_t).square().flatten(1).sum(1)

        z, x0, value = loss(z_t)
        for _ in range(self.iterations):
            here, before, slope, length = (
                z.detach(),
                value.detach(),
                gradient(value, z),
                torch.full_like(z, lr),
            )
            for factor in [
                *[0.8] * self.line_search,
                0.0,
                0.0,
            ]:  # of the step, where a try has failed
                z, x0, value = loss(torch.where(length > 0, here - length * slope, here))
                # Written so that a new NaN is worse; a row that was NaN before is lost, and nobody
                # waits for it.
                worse = ~(value <= before) & before.isfinite()
                if self.line_search == 0 or not worse.any():
                    break
                length = torch.where(worse.view(-1, 1, 1, 1), factor * length, length)
        return [z.detach(), x0.detach()]
