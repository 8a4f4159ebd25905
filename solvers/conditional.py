"""Conditional sampling: draws of a model that was trained to fill holes, without guidance by y."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler


@dataclass(frozen=True)
class Conditional(Sampler):
    """Generalised DDIM sampling from a network that reads the mask and the measurement.

    Solvers with an ordinary prior are compared with it: this network was trained for the one task,
    on more data. On a flow, ``eta = 0`` is Euler's method.

    Parameters
    ----------
    steps : int, default 50
        Number of steps, one network call each.
    eta : float, default 0.0
        Share of fresh noise in each step, in [0, 1]: 0 is DDIM, or Euler's method on a flow; 1 is
        the ancestral step.
    guidance : float, default 1.0
        Classifier-free guidance weight of the prompt; 1 means no guidance. Both branches read mask
        and measurement.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`;
        ``index`` has the shifted steps of Stable Diffusion 3.

    Raises
    ------
    ValueError
        If ``eta`` is outside [0, 1].
    """

    card: ClassVar[Card] = Card(
        title="Conditional sampling of an inpainting model",
        paper="Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR "
        "2022; Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, ICCV "
        "2023",
        equations="Rombach et al., Section 4.5: the mask and the encoded masked image are further "
        "input channels",
        deviations=(
            "Steps are DDIM; the released pipeline of Stable Diffusion 1.5 uses the multistep "
            "method PNDM.",
            "The label of an image chooses one of the prior's prompts. Without a label the prompt "
            "is empty.",
            "Observed pixels are those of the measurement, noise included: the network knows no "
            "noise level.",
            "All pixels are decoded, observed ones too. Observed pixels are put back for pasted "
            "scores only.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"inpaint", "mask"})
    version: ClassVar[int] = 2

    steps: int = 50
    eta: float = 0.0
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta {self.eta} is outside [0, 1]; 1 is ancestral sampling, 0 is DDIM"
            )

    @override
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
            fresh = noise.normal(shape) if self.eta else None
            z = process.bridge(z, x0, t, s, self.eta, fresh)
        return prior.decode(z)
