"""VIPaint: a variational posterior at a few noise levels, fitted once per image, then guided
refinement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation
from posterior_bench.solvers.vipaint.chain import Chain
from posterior_bench.solvers.vipaint.intervals import Intervals
from posterior_bench.solvers.vipaint.refinement import Refinement
from posterior_bench.solvers.vipaint.released import Released
from posterior_bench.solvers.vipaint.settings import SWITCHES, Settings, parse


@dataclass(frozen=True)
class VIPaint(Settings):
    """VIPaint of Agarwal, Hope and Sudderth (2025): fit :mod:`solvers.vipaint.chain`, then refine its
    draws.

    Parameters
    ----------
    keypoints : Sequence[float], default (5.0, 2.0)
        Noise levels sigma/alpha of the posterior, noisiest first; [] for indices.
    keypoint_indices : Sequence[float], default ()
        The same as native indices of the checkpoint.
    eta : float, default 1.0
        Share of the reverse variance between keypoints.
    mean_noise : Sequence[float], default (0.01, 0.01)
        Initial noise on the means (top, lower), in sigma.
    spread : float, default 1.0
        Initial lower tau, in reverse standard deviations.
    gamma : float, default 0.5
        Initial weight of the prior.
    iterations : int, default 50
        Optimiser steps.
    monte_carlo : int, default 5
        Rows per image in each.
    lr : Sequence[float], default (0.1, 0.1, 0.01)
        Of mu, gamma, tau.
    beta : float, default 1.0
        Weight of both KL terms.
    likelihood : str, default 'laplace'
        ``laplace`` or ``gaussian``, summed over observed scalars of the image.
    scale : float, default 0.05
        Its b or sigma, in [-1, 1] units.
    perceptual : str, default 'none'
        A distance between image and measurement, hidden pixels at zero, that joins the
        likelihood: ``none``, ``stlpips``, ``lpips_vgg`` or ``lpips_alex``.
    perceptual_weight : float, default 1.0
        Its factor beside the mean of the other term over all scalars of the image.
    prior_levels : int, default 100
        Levels above the top keypoint.
    prior_law : str, default 'importance'
        How the prior term draws one of them, ``importance`` or ``uniform``.
    full_bound : bool, default False
        Count the interval next to the top keypoint and the noisiest level, so that the loss is
        a bound.
    refine_steps : int, default 700
        Levels below the last keypoint.
    refine_scale : float, default 5.0
        Factor of the guiding gradient.
    refine_eta : float, default 1.0
        Factor of the standard deviation of a step's noise.
    refine_term : str, default 'norm'
        ``norm`` of the residual, without the perceptual distance, or ``nll``.
    refine_order : str, default 'after'
        The guiding step comes ``after`` the prior's step, or ``before`` it, which then starts
        from a second network call.
    guidance_fit, guidance_sample : float, default 1.0
        Classifier-free, 1 = none.
    compat : str | Sequence[str], default 'none'
        ``none``, ``released``, switches.

    Notes
    -----
    Where the prior has a decoder, all of this is in its latent space and the likelihood sees
    decoded images.
    """

    card: ClassVar[Card] = Card(
        title="VIPaint",
        paper="Agarwal, Hope, Sudderth, VIPaint, 2025 (arXiv:2411.18929)",
        equations="Eq. 7, 8, 17 to 24 (family), Eq. 33 to 37 (bound), Appendix E (settings)",
        deviations=(
            "The KL has its closed form; the released code multiplies the mean term by sigma^2/2 "
            "instead of dividing.",
            "q(z_s | z_t, z_Te) follows from Bayes' rule; Eq. 41 to 46 have alpha(s|Te) where "
            "alpha(t|s) belongs.",
            "The entropy of q(z_Te) is kept; without it tau at the top collapses to zero.",
            "The prior term has unbiased weights instead of (T - T_e) / 2; in nats, so beta = 1 is "
            "the bound.",
            "Refinement adds its noise and takes gradients per sample.",
            "The perceptual network is a setting: the paper says Inception, the released code has "
            "LPIPS-VGG.",
            "Levels above the top keypoint are a rho grid in sigma/alpha; the released code has "
            "one in the index.",
            "VIPaint-4 on EDM has five keypoints, four transitions: the paper lists five times.",
        ),
        compat={
            "released": "All that follow: the released latent code, errors included.",
            **SWITCHES,
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("iterations", "refine_steps")

    @torch.enable_grad()
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Refinement:
        chain, rows, losses, progress = (
            self._start(obs, prior, noise),
            obs.repeat(self.monte_carlo),
            [],
            {},
        )
        parameters = [chain.mu, chain.logit, chain.log_var]
        rates = zip(parameters, self.lr, strict=True)
        adam = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in rates], betas=(0.9, 0.99))
        decay = torch.optim.lr_scheduler.StepLR(adam, 10, 0.99)
        for i in range(self.iterations):
            loss, x = self._loss(chain, rows, prior, noise)
            adam.zero_grad()
            loss.sum().backward(
                inputs=parameters
            )  # over images: Adam is elementwise, so none sees another
            adam.step()
            decay.step()
            losses.append(loss.detach())
            if i in self.pictured:
                progress[i] = x.detach()[:: self.monte_carlo].clone()
        return Refinement(self, chain, obs, prior, noise, losses, progress)

    def _start(self, obs: Observation, prior: Prior, noise: Noise) -> Chain:
        """The initial posterior, around the encoded observation with its hole at zero."""
        levels = [prior.level(k) for k in self.keypoints] or [
            prior.level_at_index(k) for k in self.keypoint_indices
        ]
        # from EDM's noisiest level: a flow's own is infinite
        above = prior.grid(self.prior_levels, "karras", start=prior.level(80.0), end=levels[0])
        intervals = Intervals(prior.process, levels[0], above, self.prior_law, self.full_bound)
        chain = Chain(prior.process, levels, self.eta, intervals)
        if switches := parse(self.compat):
            chain = Released(prior.process, levels, self.eta, intervals, switches, self.monte_carlo)
        clean = prior.encode(obs.operator.first_guess(obs.y)).detach()
        xi = noise.normal((2, len(levels), *prior.latent_shape)).to(clean)
        if (
            prior.latent is not None
        ):  # the released noise is on what the encoder puts out, before its scale
            xi[:, 1] *= torch.as_tensor(prior.latent.settings["scale"]).to(xi).view(-1, 1, 1)
        chain.start(clean, xi, self.mean_noise, self.spread, self.gamma)
        return chain

    def _loss(
        self, chain: Chain, obs: Observation, prior: Prior, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """The negative evidence lower bound of every image ``(N,)``, averaged over its rows, and
        the rows' images.
        """

        def xi() -> Tensor:
            return noise.normal((self.monte_carlo, *prior.latent_shape)).flatten(0, 1).to(chain.mu)

        def denoise(z: Tensor, level: Level) -> Tensor:
            return prior.denoise(z, level, obs.cond, self.guidance_fit)

        # Draw the top keypoint; its KL to the prior comes from one random interval above it.
        z = chain.top(xi())
        kl = chain.prior_term(z, denoise, noise.uniform((1,)), xi())
        # Walk down the keypoints, each step between the prior's own and a free mean.
        for i in range(1, len(chain.levels)):
            z, kl_step = chain.down(i, z, denoise, xi())
            kl = kl + kl_step
        # One denoising step gives the image that has to explain the observation.
        x = prior.decode(denoise(z, chain.levels[-1]))
        nll = chain.data_term(self.nll(x, obs), obs.y)
        return (nll + self.beta * kl).unflatten(0, (-1, self.monte_carlo)).mean(1), x
