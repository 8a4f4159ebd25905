"""The second half of VIPaint: draws from a fitted chain, refined down to the image by guided steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from priors.base import Prior
from priors.process import Level
from solvers.base import Noise, Observation, Samples
from solvers.chain import Chain
from solvers.likelihood import NLL, gradient, residual_norm


@dataclass(frozen=True)
class Refinement:
    """The fitted posterior of a batch of images; settings are those of :class:`solvers.vipaint.VIPaint`."""

    chain: Chain
    obs: Observation
    prior: Prior
    noise: Noise
    steps: int
    step_size: float
    eta: float
    term: str
    likelihood: str
    scale: float
    guidance: tuple[float, float]
    losses: Sequence[Tensor]

    @torch.no_grad()
    def sample(self, draws: Sequence[int]) -> Samples:
        prior, chain = self.prior, self.chain
        obs, noise = self.obs.repeat(len(draws)), self.noise.draws(draws)

        def xi() -> Tensor:
            return noise.normal(prior.latent_shape).to(chain.mu)

        # Draw the keypoints from the top down.
        z = chain.top(xi())
        for i in range(1, len(chain.levels)):
            guidance = chain.ancestral_guidance(*self.guidance)
            x0 = prior.denoise(z, chain.levels[i - 1], obs.cond, guidance)
            z, _ = chain.down(i, z, x0, prior, xi())
        # Refine: the prior's step, then a step towards the observation.
        for t, s in pairwise(prior.grid(self.steps, start=chain.levels[-1])):
            x0, slope = self._predict(z, t, obs)
            mean, var = prior.process.bridge_moments(z, x0, t, s, self.eta)
            z = mean + chain.refine_noise * float(var) ** 0.5 * xi() - self.step_size * slope
        # The last prediction is the sample, before the step that would follow it.
        trace = {"loss": torch.stack(list(self.losses), 1)} if self.losses else {}
        return Samples(prior.decode(x0).unflatten(0, (-1, len(draws))), trace)

    def _predict(self, z: Tensor, t: Level, obs: Observation) -> tuple[Tensor, Tensor]:
        """``x0(z)`` and the gradient of the data term with respect to ``z``."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x0 = self.prior.denoise(z, t, obs.cond, self.guidance[1])
            x = self.prior.decode(x0)
            distance = residual_norm(x, obs) if self.term == "norm" else NLL[self.likelihood](x, obs, self.scale)
            return x0.detach(), gradient(self.chain.refine_reduce(distance, obs.y), z)
