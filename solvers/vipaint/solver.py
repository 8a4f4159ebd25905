"""VIPaint: fit a variational posterior at a few noise levels, then refine its draws to images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Solver, lacking
from posterior_bench.solvers.shared.likelihood import NLL, perceptual_distance
from posterior_bench.solvers.vipaint.chain import Chain
from posterior_bench.solvers.vipaint.intervals import Intervals
from posterior_bench.solvers.vipaint.refinement import Refinement
from posterior_bench.solvers.vipaint.released import SWITCHES, Released, levels_above, parse


@dataclass(frozen=True)
class VIPaint(Solver):
    """VIPaint of Agarwal, Hope and Sudderth (2025).

    Parameters
    ----------
    keypoints : Sequence[float], default (5.0, 2.0)
        Noise levels sigma/alpha at which the posterior is fitted, noisiest first. Set it to [] if
        you give ``keypoint_indices``.
    keypoint_indices : Sequence[float], default ()
        The same levels as native indices of the checkpoint, noisiest first.
    eta : float, default 1.0
        Share of the reverse variance that the prior's step keeps between keypoints, in (0, 1].
    mean_noise : Sequence[float], default (0.01, 0.01)
        Standard deviation of the noise on the initial means, at the top keypoint and at the lower
        ones, in units of the keypoint's sigma.
    spread : float, default 1.0
        Initial tau at the lower keypoints, in standard deviations of the reverse transition.
    gamma : float, default 0.5
        Initial weight of the prior's step in the means of the lower keypoints, in (0, 1).
    iterations : int, default 50
        Steps of Adam in the fit.
    monte_carlo : int, default 5
        Rows per image in each step of the fit, 1 or more; the loss is their mean.
    lr : Sequence[float], default (0.1, 0.1, 0.01)
        Learning rates of mu, gamma and tau.
    beta : float, default 1.0
        Weight of the KL terms in the loss.
    likelihood : str, default 'laplace'
        Law of the residual, ``laplace`` or ``gaussian``; its negative logarithm is summed over the
        observed scalars of an image.
    scale : float, default 0.05
        Parameter b of the Laplace law or sigma of the Gaussian, in [-1, 1] units.
    perceptual : str, default 'none'
        A distance of image and measurement, hidden pixels at zero, that is added to the negative
        log likelihood: ``none``, ``stlpips``, ``lpips_vgg`` or ``lpips_alex``.
    perceptual_weight : float, default 1.0
        Weight of this distance, 0 or more, beside the mean of the other term over all scalars of
        the measurement.
    prior_levels : int, default 100
        Number of noise levels above the top keypoint, 2 or more.
    prior_law : str, default 'importance'
        How the prior term draws an interval of these levels, ``importance`` or ``uniform``.
    full_bound : bool, default False
        Count the interval next to the top keypoint and the noisiest level as well, so that the loss
        is a bound.
    refine_steps : int, default 700
        Number of noise levels in the refinement, from the last keypoint down.
    refine_scale : float, default 5.0
        Weight of the guiding gradient in each step of the refinement.
    refine_eta : float, default 1.0
        Weight of the noise in each step of the refinement: 1 is the ancestral step, 0 is DDIM.
    refine_term : str, default 'norm'
        Loss of the guiding gradient: ``norm`` of the residual, without the perceptual distance, or
        ``nll``, the likelihood of the fit.
    refine_order : str, default 'after'
        Whether the guiding step comes ``after`` the prior's step or ``before`` it. If it comes
        before, the prior's step starts from a second network call.
    guidance_fit : float, default 1.0
        Classifier-free guidance weight in the fit; 1 means no guidance.
    guidance_sample : float, default 1.0
        Classifier-free guidance weight in the refinement; 1 means no guidance.
    compat : str | Sequence[str], default 'none'
        ``none``, ``released``, or a list of the switches below.

    Raises
    ------
    ValueError
        If settings contradict each other, are out of range, or have an unknown name.

    Notes
    -----
    The fit minimises a negative evidence lower bound over a Gaussian Markov chain at the keypoints,
    once per image (``solvers.vipaint.chain``). Draws of the chain are then refined down to images
    by guided steps (``solvers.vipaint.refinement``). On a latent prior all of this takes place in
    its latent space, and the likelihood sees decoded images.

    The defaults are the paper's for ImageNet64, as far as it gives them.
    """

    card: ClassVar[Card] = Card(
        title="VIPaint",
        paper="Agarwal, Hope, Sudderth, VIPaint, 2025 (arXiv:2411.18929)",
        equations="Eq. 7, 8, 17 to 24 (family), Eq. 33 to 37 (bound), Appendix E (settings)",
        deviations=(
            "The KL has its closed form. The released code multiplies the squared difference of "
            "means by sigma^2 / 2 instead of dividing it by 2 sigma^2.",
            "q(z_s | z_t, z_Te) follows from Bayes' rule. Eq. 41 to 46 print alpha(s|Te) where "
            "alpha(t|s) belongs.",
            "The entropy of q(z_Te) is kept. Without it tau at the top keypoint collapses to zero.",
            "The weights of the prior term make it unbiased; the paper's weight is (T - T_e) / 2. "
            "The term is in nats, so that beta = 1 gives the bound.",
            "The refinement adds noise in every step and takes gradients per sample. The released "
            "code does neither.",
            "The perceptual network is a setting: the paper names Inception, the released code "
            "uses LPIPS with VGG.",
            "The levels above the top keypoint follow the rho law of EDM in sigma/alpha. The "
            "released code applies it to the training index.",
            "The initial tau of the lower keypoints is spread sqrt(V), where V is the variance of "
            "the reverse step; 0.7 sqrt(V) on latents, as in the released code. The paper's 'Eq. "
            "23 with scaling factor a3 / eta' can also be read as 0.837 sqrt(V).",
            "The paper prints a largest sigma of 50 for EDM; the checkpoint and this code have 80.",
            "With one keypoint the paper prints one sentence, which says 50 iterations; the "
            "released configuration has 100, and so have the presets named after the paper.",
            "VIPaint-4 on EDM has five keypoints and so four transitions: the paper lists five "
            "times.",
        ),
        compat={
            "released": "All switches below: the released latent code, errors included. On a "
            "golden run of it, 3 x 4 x 4 with a mixture prior, images were 0.63 apart without "
            "mu_shift and refine_levels and means of the fit 2.9; now 2e-15 and 9e-13.",
            **SWITCHES,
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 2
    work: ClassVar[tuple[str, ...]] = ("iterations", "refine_steps")

    keypoints: Sequence[float] = (5.0, 2.0)
    keypoint_indices: Sequence[float] = ()
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
    perceptual: str = "none"
    perceptual_weight: float = 1.0
    prior_levels: int = 100
    prior_law: str = "importance"
    full_bound: bool = False
    refine_steps: int = 700
    refine_scale: float = 5.0
    refine_eta: float = 1.0
    refine_term: str = "norm"
    refine_order: str = "after"
    guidance_fit: float = 1.0
    guidance_sample: float = 1.0
    compat: str | Sequence[str] = "none"

    def __post_init__(self) -> None:
        self._check_keypoints()
        if len(self.mean_noise) != 2 or len(self.lr) != 3:
            raise ValueError(
                "mean_noise takes two numbers (top, lower) and lr three (mu, gamma, tau)"
            )
        gamma_and_eta = 0 < self.gamma < 1 and 0 < self.eta <= 1
        if not (gamma_and_eta and self.prior_levels > 1 and self.monte_carlo > 0):
            raise ValueError(
                "need 0 < gamma < 1, 0 < eta <= 1, prior_levels >= 2 and monte_carlo >= 1"
            )
        if self.likelihood not in NLL or self.refine_term not in ("norm", "nll"):
            raise ValueError(f"likelihood is one of {', '.join(NLL)}; refine_term is norm or nll")
        if self.refine_order not in ("after", "before") or self.perceptual_weight < 0:
            raise ValueError("refine_order is after or before, and perceptual_weight is 0 or more")
        if self.prior_law not in ("importance", "uniform"):
            raise ValueError(f"unknown prior_law '{self.prior_law}'; valid: importance, uniform")
        if parse(self.compat) and (self.prior_law != "uniform" or self.full_bound):
            raise ValueError(
                "compat goes with prior_law=uniform and full_bound=false, as in the released code"
            )

    def _check_keypoints(self) -> None:
        if bool(self.keypoints) == bool(self.keypoint_indices):
            raise ValueError(
                "give keypoints (sigma/alpha) or keypoint_indices (native) and set the other to []"
            )
        if any(a <= b for a, b in pairwise(self.keypoints or self.keypoint_indices)):
            raise ValueError(
                "keypoints go from the noisiest down, without repetition, for example [5.0, 2.0]"
            )

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        # A perceptual distance compares images with a hole, so it needs a mask.
        return lacking(self.needs if self.perceptual == "none" else self.needs | {"mask"}, has)

    @override
    @torch.enable_grad()
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Refinement:
        # Start around the encoded observation.
        chain = self._start(obs, prior, noise)
        parameters = [chain.mu, chain.logit, chain.log_var]
        rates = zip(parameters, self.lr, strict=True)
        adam = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in rates], betas=(0.9, 0.99))
        decay = torch.optim.lr_scheduler.StepLR(adam, 10, 0.99)
        rows = obs.repeat(self.monte_carlo)
        losses: list[Tensor] = []
        progress: dict[int, Tensor] = {}
        for i in range(self.iterations):
            # Estimate the loss of every image from its rows.
            loss, x = self._loss(chain, rows, prior, noise)
            # One step of Adam on the sum over images: Adam is elementwise, so they stay apart.
            adam.zero_grad()
            loss.sum().backward(inputs=parameters)
            chain.before_step()
            adam.step()
            decay.step()
            # Keep the loss, and now and then an image.
            losses.append(loss.detach())
            if i in self.pictured:
                progress[i] = x.detach()[:: self.monte_carlo].clone()
        return Refinement(self, chain, obs, prior, noise, losses, progress)

    @property
    def pictured(self) -> frozenset[int]:
        """Iterations that leave a picture: every 50th, or every tenth of up to 100, and the last.

        Every 50th is what VIPaint shows in Fig. 4.
        """
        every = 50 if self.iterations > 100 else 10
        return frozenset({*range(0, self.iterations, every), self.iterations - 1})

    def nll(self, x: Tensor, obs: Observation) -> Tensor:
        """Return the negative log likelihood of images, with the perceptual distance.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` in [-1, 1] units.
        obs : Observation
            Measurements of these ``N`` images.

        Returns
        -------
        Tensor
            Numbers ``(N,)``, in nats. As published, the perceptual distance stands beside the mean
            of the other term, so here its weight is multiplied by the number of scalars of ``y``.

        Raises
        ------
        ValueError
            If the observation came without the distance that the settings name.
        """
        nats = NLL[self.likelihood](x, obs, self.scale)
        if self.perceptual == "none":
            return nats
        return nats + self.perceptual_weight * obs.y[0].numel() * perceptual_distance(x, obs)

    def _start(self, obs: Observation, prior: Prior, noise: Noise) -> Chain:
        """Return the initial posterior, around the encoded observation with its hole at zero."""
        chain = self._chain(prior)
        levels = chain.levels
        clean = prior.encode(obs.operator.first_guess(obs.y)).detach()
        xi = noise.normal((2, len(levels), *prior.latent_shape)).to(clean)
        if prior.latent is not None:
            # The released code adds its noise to the encoder's output, before the latent scale.
            xi[:, 1] *= torch.as_tensor(prior.latent.settings["scale"]).to(xi).view(-1, 1, 1)
        chain.start(clean, xi, self.mean_noise, self.spread, self.gamma)
        return chain

    def _chain(self, prior: Prior) -> Chain:
        """Return a chain at the keypoints, without parameters."""
        process = prior.process
        levels = [prior.level(k) for k in self.keypoints] or [
            prior.level_at_index(k) for k in self.keypoint_indices
        ]
        switches = parse(self.compat)
        above = levels_above(process, levels[0]) if "prior_grid" in switches else None
        if above is None:
            # From EDM's noisiest level: the noisiest level of a flow is infinite.
            above = prior.grid(self.prior_levels, "karras", start=prior.level(80.0), end=levels[0])
        intervals = Intervals(process, levels[0], above, self.prior_law, self.full_bound)
        if switches:
            return Released(process, levels, self.eta, intervals, switches, self.monte_carlo)
        return Chain(process, levels, self.eta, intervals)

    def _loss(
        self, chain: Chain, obs: Observation, prior: Prior, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of every image ``(N,)`` and the images of its rows.

        The loss is the negative evidence lower bound, averaged over the rows of an image.
        """
        xi, denoise = self._sources(chain, obs, prior, noise)
        # Draw the top keypoint; its KL to the prior comes from one random interval above it.
        z = chain.top(xi())
        kl = chain.prior_term(z, denoise, noise.host_uniform((1,)), xi())
        # Walk down the keypoints, each step between the prior's own and a free mean.
        for i in range(1, len(chain.levels)):
            z, kl_step = chain.down(i, z, denoise, xi())
            kl = kl + kl_step
        # One denoising step gives the image that has to explain the observation.
        x = prior.decode(denoise(z, chain.levels[-1]))
        nll = chain.data_term(self.nll(x, obs), obs.y)
        return (nll + self.beta * kl).unflatten(0, (-1, self.monte_carlo)).mean(1), x

    def _sources(
        self, chain: Chain, obs: Observation, prior: Prior, noise: Noise
    ) -> tuple[Callable[[], Tensor], Callable[[Tensor, Level], Tensor]]:
        """Return functions that draw normals for every row, and that denoise states of the rows."""

        def xi() -> Tensor:
            return noise.normal((self.monte_carlo, *prior.latent_shape)).flatten(0, 1).to(chain.mu)

        def denoise(z: Tensor, level: Level) -> Tensor:
            return prior.denoise(z, level, obs.cond, self.guidance_fit)

        return xi, denoise
