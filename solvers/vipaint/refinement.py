"""The second half of VIPaint: draws from a fitted chain, refined to images by guided steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Noise, Observation, Samples
from posterior_bench.solvers.shared.likelihood import gradient, residual_norm
from posterior_bench.solvers.vipaint.chain import Chain

if TYPE_CHECKING:
    from posterior_bench.solvers.vipaint.solver import VIPaint


@dataclass(frozen=True)
class Refinement:
    """The fitted posterior of a batch of ``N`` images.

    Parameters
    ----------
    settings : VIPaint
        The solver with its hyper-parameters.
    chain : Chain
        The fitted chain of every image.
    obs : Observation
        The observations, one row per image.
    prior : Prior
        The prior.
    noise : Noise
        The source of randomness, one row per image.
    losses : Sequence[Tensor]
        Losses ``(N,)`` of every iteration of the fit.
    progress : Mapping[int, Tensor], default {}
        Images ``(N, C, H, W)`` of some iterations, by the number of the iteration.
    """

    settings: VIPaint
    chain: Chain
    obs: Observation
    prior: Prior
    noise: Noise
    losses: Sequence[Tensor]
    progress: Mapping[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def sample(self, draws: Sequence[int]) -> Samples:
        """Draw samples; see :meth:`solvers.base.Posterior.sample`."""
        settings, prior, chain = self.settings, self.prior, self.chain
        obs, noise = self.obs.repeat(len(draws)), self.noise.draws(draws)

        def xi() -> Tensor:
            return noise.normal(prior.latent_shape).to(chain.mu)

        # Draw the keypoints from the top down.
        z = self._keypoints(obs, xi)
        # Refine: the prior's step, and after or before it a step towards the observation.
        levels = chain.refinement_levels(prior, settings.refine_steps)
        for t, s in pairwise(levels):
            x0, slope = self._predict(z, t, obs)
            if settings.refine_order == "before":
                z = z - settings.refine_scale * slope
                x0 = prior.denoise(z, t, obs.cond, settings.guidance_sample)
            mean, var = prior.process.bridge_moments(z, x0, t, s, settings.refine_eta)
            spread = chain.refine_noise * float(var) ** 0.5
            z = mean + spread * xi() if spread else mean
            if settings.refine_order == "after":
                z = z - settings.refine_scale * slope
        # The last prediction is the sample.
        x = prior.decode(prior.denoise(z, levels[-1], obs.cond, settings.guidance_sample))
        return Samples(x.unflatten(0, (-1, len(draws))), self.trace)

    @property
    def trace(self) -> dict[str, Tensor]:
        """How the fit went: ``loss`` by iteration, and pictures ``after`` some iterations."""
        if not self.losses:
            return {}
        loss = {"loss": torch.stack(list(self.losses), 1)}
        if not self.progress:
            return loss
        after = torch.tensor([*self.progress]).expand(self.obs.n, -1)
        return loss | {"after": after, "progress": torch.stack([*self.progress.values()], 1)}

    def _keypoints(self, obs: Observation, xi: Callable[[], Tensor]) -> Tensor:
        """Draw the chain's states from the top keypoint down, and return the last one."""
        settings, chain = self.settings, self.chain
        late = chain.sampling_guidance_from_top
        guidance = settings.guidance_sample if late else settings.guidance_fit

        def denoise(z: Tensor, level: Level) -> Tensor:
            return self.prior.denoise(z, level, obs.cond, guidance)

        z = chain.top(xi())
        for i in range(1, len(chain.levels)):
            z, _ = chain.down(i, z, denoise, xi())
        return z

    def _predict(self, z: Tensor, t: Level, obs: Observation) -> tuple[Tensor, Tensor]:
        """Return ``x0(z)`` and the gradient of the data term with respect to ``z``."""
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
