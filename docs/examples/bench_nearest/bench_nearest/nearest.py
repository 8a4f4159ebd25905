"""Nearest: sample the prior, and put the observed pixels back at every step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler


@dataclass(frozen=True)
class Nearest(Sampler):
    """Ancestral sampling with the observed pixels of x0 replaced.

    Parameters
    ----------
    steps : int, default 100
        Network calls.
    """

    card: ClassVar[Card] = Card(
        title="Nearest", paper="Yours", equations="x0 = m y + (1 - m) x0(z_t)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"mask", "pixel"})

    steps: int = 100

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        levels = prior.grid(self.steps)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(prior.latent_shape)
        for t, s in pairwise(levels):
            # Predict the clean image, and put the observed pixels back.
            x0 = obs.operator.paste(prior.denoise(z, t, obs.cond), obs.y)
            # Step down.
            z = prior.process.bridge(z, x0, t, s, eta=1.0, noise=noise.normal(prior.latent_shape))
        return z
