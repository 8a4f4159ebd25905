"""VIPaint: a variational posterior at a few noise levels, fitted once per image, then guided refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from priors.base import Prior
from solvers.base import Card, Noise, Observation, Solver
from solvers.chain import Chain
from solvers.likelihood import NLL
from solvers.prior_term import boundary_terms
from solvers.refinement import Refinement
from solvers.vipaint_released import Released, parse


@dataclass(frozen=True)
class VIPaint(Solver):
    """VIPaint of Agarwal, Hope and Sudderth (2025): fit :mod:`solvers.chain`, then refine its draws.

    Parameters
    ----------
    keypoints: noise levels sigma/alpha of the posterior, noisiest first; or keypoint_indices: the same as native indices
    of the checkpoint. eta: share of the reverse variance between keypoints. mean_noise: initial noise on the means (top,
    lower; in sigma). spread, gamma: initial lower standard deviation (in units of the reverse one) and prior weight.
    iterations, monte_carlo: optimiser steps and rows per image in each. lr: for mu, gamma, tau. beta: weight of both KL
    terms. likelihood, scale: ``laplace`` (b) or ``gaussian`` (sigma), summed over observed scalars. prior_levels: levels
    above the top keypoint. full_bound: add the two small terms that make the loss a bound. refine_steps, refine_scale,
    refine_eta (a factor of the standard deviation), refine_term (``norm`` or ``nll``): the guided steps below the last
    keypoint. guidance_fit, guidance_sample: classifier-free guidance. compat: ``none``, ``released`` or switches.
    """

    card: ClassVar[Card] = Card(
        title="VIPaint",
        paper="Agarwal, Hope, Sudderth, VIPaint: Image Inpainting with Pre-Trained Diffusion Models via Variational "
        "Inference, 2025 (arXiv:2411.18929)",
        equations="Eq. 7, 8, 17 to 24 (family), Eq. 33 to 37 (bound), Section 4 (sampling)",
        deviations=(
            "The KL has its closed form; the released code multiplies the mean term by sigma^2/2 instead of dividing.",
            "q(z_s | z_t, z_Te) follows from Bayes' rule; Eq. 41 to 46 have alpha(s|Te) where alpha(t|s) belongs.",
            "The entropy of q(z_Te) is kept; without it tau at the top collapses to zero.",
            "The prior term counts intervals instead of (T - T_e) / 2; sums in nats, so beta = 1 is the bound itself.",
            "Refinement adds the noise its variance asks for; its gradient is taken per sample.",
            "No perceptual term yet: the likelihood is on pixels alone.",
        ),
        compat={"released": "every difference of the released latent code; or switches by name, joined by '+'"},
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1

    keypoints: Sequence[float] | None = None
    keypoint_indices: Sequence[float] | None = None
    eta: float = 1.0
    mean_noise: Sequence[float] = (0.01, 0.01)
    spread: float = 1.0
    gamma: float = 0.5
    iterations: int = 50
    monte_carlo: int = 5
    lr: Sequence[float] = (0.1, 0.1, 0.01)
    beta: float = 1.0
    likelihood: str = "laplace"
    scale: float = 0.05
    prior_levels: int = 100
    full_bound: bool = False
    refine_steps: int = 700
    refine_scale: float = 5.0
    refine_eta: float = 1.0
    refine_term: str = "norm"
    guidance_fit: float = 1.0
    guidance_sample: float = 1.0
    compat: str = "none"

    def __post_init__(self) -> None:
        if (self.keypoints is None) == (self.keypoint_indices is None):
            raise ValueError("give either keypoints (ratios sigma/alpha) or keypoint_indices (native), noisiest first")
        if self.likelihood not in NLL or self.refine_term not in ("norm", "nll"):
            raise ValueError("likelihood is laplace or gaussian; refine_term is norm or nll")
        parse(self.compat)

    @torch.enable_grad()
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Refinement:
        chain = self._start(obs, prior, noise)
        rows = obs.repeat(self.monte_carlo)
        groups = zip((chain.mu, chain.logit, chain.log_var), self.lr, strict=True)
        optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in groups])
        decay = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.99)
        losses = []
        for _ in range(self.iterations):
            loss = self._loss(chain, rows, prior, noise)
            optimizer.zero_grad()
            loss.sum().backward()  # a sum over images, and Adam is elementwise: no image sees another
            optimizer.step()
            decay.step()
            losses.append(loss.detach())
        guided = (self.refine_steps, self.refine_scale, self.refine_eta, self.refine_term, self.likelihood, self.scale)
        return Refinement(chain, obs, prior, noise, *guided, (self.guidance_fit, self.guidance_sample), losses)

    def _start(self, obs: Observation, prior: Prior, noise: Noise) -> Chain:
        """Keypoints and the initial posterior, around the encoding of the observation with its hole at zero."""
        at = prior.level if self.keypoints is not None else prior.level_at_index
        levels = [at(k) for k in self.keypoints or self.keypoint_indices or ()]
        above = prior.grid(self.prior_levels, "karras", end=levels[0])
        clean = prior.encode(obs.operator.first_guess(obs.y))
        xi = noise.normal((len(levels), *prior.latent_shape)).to(clean)
        kind = Chain if self.compat == "none" else Released.with_switches(parse(self.compat))
        return kind.start(prior, levels, above, self.eta, clean, xi, self.mean_noise, self.spread, self.gamma)

    def _loss(self, chain: Chain, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        """The negative evidence lower bound of every image ``(N,)``, averaged over its Monte Carlo rows."""

        def xi() -> Tensor:
            return noise.normal((self.monte_carlo, *prior.latent_shape)).flatten(0, 1).to(chain.mu)

        # Draw the top keypoint; its KL to the prior comes from one random interval above it.
        z = chain.top(xi())
        kl = chain.prior_term(z, prior, obs.cond, self.guidance_fit, noise.uniform((1,)), xi())
        if self.full_bound:
            kl = kl + boundary_terms(chain, z, prior, obs.cond, self.guidance_fit, xi())
        # Walk down the keypoints, each step between the prior's own and a free mean.
        for i in range(1, len(chain.levels)):
            x0 = prior.denoise(z, chain.levels[i - 1], obs.cond, self.guidance_fit)
            z, kl_step = chain.down(i, z, x0, prior, xi())
            kl = kl + kl_step
        # One denoising step gives the image that has to explain the observation.
        x = prior.decode(prior.denoise(z, chain.levels[-1], obs.cond, self.guidance_fit))
        nll = chain.reduce(NLL[self.likelihood](x, obs, self.scale), obs.y)
        return (nll + self.beta * kl).unflatten(0, (-1, self.monte_carlo)).mean(1)
