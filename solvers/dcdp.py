"""DCDP: fit an image to y and purify it by diffusion, in turn, from less and less noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import data_slope

PURIFICATIONS = ("ddim", "denoise")


@dataclass(frozen=True)
class DCDP(Sampler):
    """Decoupled data consistency with diffusion purification, Li et al. (2024).

    Each round takes gradient steps with momentum on ``|y - A x|^2 / 2``, a sum over an image,
    adds noise, and removes it. On a latent prior the latent is fitted, through the decoder.

    Parameters
    ----------
    steps : int, default 20
        Number of rounds, each with a noise level of its own.
    inner_steps : int, default 50
        Gradient steps of each round, 0 or more. They make no network call; on a latent prior each
        has a backward pass through the decoder.
    lr : float, default 0.0102
        Size of a gradient step, positive. It is a step per scalar: 1 leads an observed pixel to its
        measured value in one step. With the loss as a mean over the ``M`` scalars of ``y``, as
        published, the same step is ``lr M / 2``.
    momentum : float, default 0.9
        Momentum of the gradient steps, in [0, 1); it starts from rest in every round.
    ratio_max : float, default 11.9
        Noise level of the first round, as sigma/alpha, positive. The default is training step 699
        of the DDPM schedule. The last round has the cleanest level of the network.
    purification : str, default 'ddim'
        How noise is removed: ``ddim`` runs a deterministic chain down from the level (the paper's
        version 1), ``denoise`` takes one prediction (version 2).
    purify_steps : int, default 20
        Network calls of a ``ddim`` purification, 1 or more; fewer where fewer training steps lie
        below the level.
    clip : bool, default True
        Clip x0 to [-1, 1]; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels of rounds and chains: ``native`` or another kind of
        :meth:`priors.base.Prior.grid` that may start at any level.

    Raises
    ------
    ValueError
        If a setting is out of range or ``purification`` is unknown.

    Notes
    -----
    The gradient steps are stable if ``lr |A|^2`` is below ``2 (1 + momentum)``, where ``A``
    includes the decoder. With momentum, a slow coordinate is left with about
    ``momentum^(inner_steps / 2)`` of its residual.
    """

    card: ClassVar[Card] = Card(
        title="DCDP",
        paper="Li et al., Decoupled Data Consistency with Diffusion Purification for Image "
        "Restoration, 2024",
        equations="The algorithm of the paper: descent on |y - A x|^2 / 2, then noise and its "
        "removal by DDIM (version 1) or by one prediction (version 2)",
        deviations=(
            "The loss is a sum over each image, so the step does not depend on the size of the "
            "measurement. The released loss is a mean, and its step is lr M / 2 for M scalars.",
            "Levels are evenly spaced in the grid of the prior, down to its cleanest level. The "
            "released levels are within one training step of these on a DDPM schedule, and its "
            "last chain takes two calls where one training step is left.",
            "A round takes purify_steps network calls (version 1) or one (version 2), and no "
            "backward pass.",
            "The method has no model of the noise: with a noisy measurement it fits the noise.",
            "The output is the image after the last purification, so it does not match the "
            "measurement exactly.",
        ),
    )

    steps: int = 20
    inner_steps: int = 50
    lr: float = 0.0102
    momentum: float = 0.9
    ratio_max: float = 11.9
    purification: str = "ddim"
    purify_steps: int = 20
    clip: bool = True
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if self.purification not in PURIFICATIONS:
            raise ValueError(
                f"unknown purification '{self.purification}'; valid: {', '.join(PURIFICATIONS)}"
            )
        for name in ("lr", "ratio_max", "purify_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not (self.inner_steps >= 0 and 0 <= self.momentum < 1):
            raise ValueError(
                f"need inner_steps of 0 or more and momentum in [0, 1), got {self.inner_steps} and "
                f"{self.momentum}"
            )

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        shape = prior.latent_shape
        levels = prior.grid(self.steps, self.grid, start=prior.level(self.ratio_max))[:-1]
        # Start from zero: grey, or the middle of the latents.
        x = obs.y.new_zeros(obs.n, *shape)
        for t in levels:
            # Fit the measurement.
            x = self._fitted(x, obs, prior)
            # Add noise, and remove it.
            z = prior.process.add_noise(x, t, noise.normal(shape))
            x = self._purified(z, t, obs, prior)
        return prior.decode(x)

    def _fitted(self, x: Tensor, obs: Observation, prior: Prior) -> Tensor:
        velocity = torch.zeros_like(x)
        for _ in range(self.inner_steps):
            velocity = data_slope(x, obs, prior).add_(velocity, alpha=self.momentum)
            x = x.sub(velocity, alpha=self.lr)
        return x

    def _purified(self, z: Tensor, t: Level, obs: Observation, prior: Prior) -> Tensor:
        for t_, s in pairwise(self._chain(t, prior)):
            x0 = prior.denoise(z, t_, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            z = prior.process.bridge(z, x0, t_, s, eta=0.0, noise=None)
        return z

    def _chain(self, t: Level, prior: Prior) -> list[Level]:
        """Return the levels of a purification, from ``t`` to the clean end."""
        index = prior.process.index(t)
        below = math.inf if math.isnan(index) else round(index) + 1
        count = 1 if self.purification == "denoise" else min(self.purify_steps, below)
        return prior.grid(int(count), self.grid, start=t)
