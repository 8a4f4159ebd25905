"""Conditional sampling: draws of a model that was trained to fill holes. Nothing is guided towards
the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler


@dataclass(frozen=True)
class Conditional(Sampler):
    """Generalised DDIM sampling from a network that reads mask and measurement; on a flow, eta = 0
    is Euler's method.

    What solvers with an ordinary prior are measured against: a network trained for this one task,
    with more data.

    Parameters
    ----------
    steps : int, default 50
        Network calls.
    eta : float, default 0.0
        0 is DDIM, or Euler's method on a flow; 1 is the ancestral step.
    guidance : float, default 1.0
        Classifier-free guidance weight towards the prompt, 1 = none; mask and measurement stand
        in both branches.
    grid : str, default 'native'
        Kind of :meth:`priors.base.Prior.grid`; ``index`` has the shifted steps of Stable
        Diffusion 3.

    Notes
    -----
    Raises ValueError for ``eta`` outside [0, 1].
    """

    card: ClassVar[Card] = Card(
        title="Conditional sampling of an inpainting model",
        paper="Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR "
        "2022; "
        "Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023",
        equations="Rombach et al., Section 4.5: the mask and the encoded masked image are further "
        "input channels",
        deviations=(
            "DDIM steps where the released pipeline of Stable Diffusion 1.5 has the multistep "
            "method PNDM.",
            "A label of the data chooses one of the prior's prompts; without one, the prompt is "
            "empty.",
            "The observed pixels are those of the measurement, noise included: the network knows "
            "no noise level.",
            "All pixels are decoded, observed ones too; the observed ones are put back in pasted "
            "scores alone.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"inpaint", "mask"})
    version: ClassVar[int] = 1

    steps: int = 50
    eta: float = 0.0
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta {self.eta} is outside [0, 1]; 1 is ancestral sampling, 0 is DDIM"
            )

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape, mask = prior.process, prior.latent_shape, obs.operator.mask
        assert mask is not None
        levels = prior.grid(self.steps, self.grid)
        # Encode the masked image: a draw of the encoder's Gaussian, as the network saw in training.
        cond = prior.inpainting(obs.y, mask, obs.cond, noise.normal(shape))
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean state.
            x0 = prior.denoise(z, t, cond, self.guidance)
            # Step down.
            z = process.bridge(z, x0, t, s, self.eta, noise.normal(shape))
        return prior.decode(z)
