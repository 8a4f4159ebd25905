"""Samples of the prior that never look at the observation: the lower bound of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.ancestral import check_variance, predict, step_down


@dataclass(frozen=True)
class PriorSamples(Sampler):
    """Generalised DDIM sampling from the prior, ancestral by default; ``y`` is ignored.

    Parameters
    ----------
    steps : int, default 1000
        Number of steps, one network call each.
    eta : float, default 1.0
        Share of fresh noise in each step, in [0, 1]: 1 is the ancestral step, 0 is DDIM.
    clip : bool, default False
        Clip x0 to [-1, 1]; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    variance : str, default 'fixed'
        Variance of an ancestral step: ``fixed``, the variance of the posterior, or ``learned``, the
        network's own if it has learned one.

    Raises
    ------
    ValueError
        If ``eta`` is outside [0, 1], ``variance`` is unknown, or ``variance`` is ``learned`` and
        ``eta`` is not 1.
    """

    card: ClassVar[Card] = Card(
        title="Prior samples",
        paper="Song et al., Denoising Diffusion Implicit Models, ICLR 2021",
        equations="Eq. 12; eta = 1 is the ancestral sampler of Ho et al. (2020) with the small "
        "posterior variance",
        deviations=(
            "This is not a solver. Any method must be better outside the observed pixels.",
        ),
    )
    version: ClassVar[int] = 2

    steps: int = 1000
    eta: float = 1.0
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"
    variance: str = "fixed"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta {self.eta} is outside [0, 1]; 1 is ancestral sampling, 0 is DDIM"
            )
        check_variance(self.variance)
        if self.variance == "learned" and self.eta != 1:
            raise ValueError(
                f"variance=learned needs ancestral steps, eta=1, got eta={self.eta}; set "
                "variance=fixed or eta=1"
            )

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        levels = prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean state.
            x0, fraction = predict(prior, z, t, obs.cond, self.guidance, self.variance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            # Step down.
            z = step_down(process, z, x0, fraction, t, s, noise.normal(shape), self.eta)
        return prior.decode(z)
