"""The second half of VIPaint: draws from a fitted chain, refined down to the image by guided
steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Noise, Observation, Samples
from posterior_bench.solvers.shared.likelihood import gradient, residual_norm
from posterior_bench.solvers.vipaint.chain import Chain
from posterior_bench.solvers.vipaint.settings import Settings


@dataclass(frozen=True)
class Refinement:
    """The fitted posterior of a batch of images.

    ``losses``: ``(N,)`` of every iteration of the fit; ``progress``: images ``(N, C, H, W)`` of
    some, by their number.
    """

    settings: Settings
    chain: Chain
    obs: Observation
    prior: Prior
    noise: Noise
    losses: Sequence[Tensor]
    progress: Mapping[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def sample(self, draws: Sequence[int]) -> Samples:
        settings, prior, chain = self.settings, self.prior, self.chain
        obs, noise = self.obs.repeat(len(draws)), self.noise.draws(draws)

        def xi() -> Tensor:
            return noise.normal(prior.latent_shape).to(chain.mu)

        def denoise(z: Tensor, level: Level) -> Tensor:
            guided = chain.sampling_guidance_from_top
            return prior.denoise(
                z, level, obs.cond, settings.guidance_sample if guided else settings.guidance_fit
            )

        # Draw the keypoints from the top down.
        z = chain.top(xi())
        for i in range(1, len(chain.levels)):
            z, _ = chain.down(i, z, denoise, xi())
        # Refine: the prior's step, and after or before it a step towards the observation.
        levels = prior.grid(settings.refine_steps, start=chain.levels[-1])[:-1]
        for t, s in pairwise(levels):
            x0, slope = self._predict(z, t, obs)
            if settings.refine_order == "before":
                z = z - settings.refine_scale * slope
                x0 = prior.denoise(z, t, obs.cond, settings.guidance_sample)
            mean, var = prior.process.bridge_moments(z, x0, t, s, settings.refine_eta)
            z = mean + chain.refine_noise * float(var) ** 0.5 * xi()
            if settings.refine_order == "after":
                z = z - settings.refine_scale * slope
        # The last prediction is the sample.
        x = prior.decode(prior.denoise(z, levels[-1], obs.cond, settings.guidance_sample))
        return Samples(x.unflatten(0, (-1, len(draws))), self.trace)

    @property
    def trace(self) -> dict[str, Tensor]:
        """How the fit went: ``loss`` by iteration, and what a draw looked like ``after`` so many of
        them.
        """
        if not self.losses:
            return {}
        after = torch.tensor([*self.progress]).expand(self.obs.n, -1)
        pictures = (
            {"after": after, "progress": torch.stack([*self.progress.values()], 1)}
            if self.progress
            else {}
        )
        return {"loss": torch.stack(list(self.losses), 1), **pictures}

    def _predict(self, z: Tensor, t: Level, obs: Observation) -> tuple[Tensor, Tensor]:
        """``x0(z)`` and the gradient of the data term with respect to ``z``."""
        settings, chain = self.settings, self.chain
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x0 = self.prior.denoise(z, t, obs.cond, settings.guidance_sample)
            x = self.prior.decode(x0)
            if settings.refine_term == "norm":
                loss = residual_norm(x, obs)
            else:
                loss = chain.data_term(settings.nll(x, obs), obs.y)
            return x0.detach(), chain.refine_share * gradient(loss, z)
