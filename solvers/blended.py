"""Blended sampling: unconditional sampling with the observed pixels replaced at every level."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.latent_mask import masked_state


@dataclass(frozen=True)
class Blended(Sampler):
    """Replacement sampling of Song et al. (2021), Appendix I.2, with the generalised DDIM step.

    Parameters
    ----------
    steps : int, default 1000
        Number of steps, one network call each.
    eta : float, default 1.0
        Share of fresh noise in each step, in [0, 1]: 1 is the ancestral step, 0 is DDIM. They are
        different baselines: DDIM couples the hole less to its surroundings.
    clip : bool, default False
        Clip x0 to [-1, 1]; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``eta`` is outside [0, 1].
    """

    card: ClassVar[Card] = Card(
        title="Blended (replacement) sampling",
        paper="Song et al., Score-Based Generative Modeling through SDEs, ICLR 2021",
        equations="Appendix I.2: z_t[m] ~ q(z_t | y), then one unconditional step",
        deviations=(
            "One ancestral or DDIM step per level instead of a predictor and a corrector: half the "
            "network calls.",
            "Observed pixels are replaced before the network call, with noise of the state's own "
            "level, and from the first level on. The released code replaces them after each "
            "update, with noise of the level before it.",
            "The state starts as pure noise everywhere; the released code starts from clean "
            "observed pixels.",
            "Noise on the measurement is not modelled: y is noised as if it were the clean image.",
            "VIPaint runs it on latents too (Table 5) and does not say how. Here a latent cell is "
            "observed if all of its pixels are, and has the value of the encoded observation, "
            "whose hole is grey: near the hole it has seen some grey. Blended Latent Diffusion "
            "(Avrahami et al. 2023) blends the same way and decides a cell by its nearest pixel.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    version: ClassVar[int] = 2

    steps: int = 1000
    eta: float = 1.0
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta {self.eta} is outside [0, 1]; 1 is ancestral sampling, 0 is DDIM"
            )

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        assert obs.operator.mask is not None
        process, shape = prior.process, prior.latent_shape
        observed, mask = masked_state(prior, obs.operator.At(obs.y), obs.operator.mask)
        levels = prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Replace what is observed by the observation, noised to the level of the state.
            z = torch.where(mask, process.add_noise(observed, t, noise.normal(shape)), z)
            # Predict the clean image.
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            # Step down.
            z = process.bridge(z, x0, t, s, self.eta, noise.normal(shape))
        return prior.decode(z)
