"""DPS: ancestral sampling with a gradient step on the residual of the predicted clean image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.ancestral import check_variance, predict, step_down
from posterior_bench.solvers.shared.likelihood import (
    gradient,
    perceptual_distance,
    residual_mean,
    residual_norm,
)

LOSSES = {"norm": residual_norm, "l1": residual_mean}
VIEWS = ("native", "vp", "ve")
COMPAT = ("none", "released")


@dataclass(frozen=True)
class DPS(Sampler):
    """Diffusion posterior sampling of Chung et al. (2023), Algorithm 1; latent DPS where the prior
    has a decoder.

    Parameters
    ----------
    steps : int, default 1000
        Network calls, each with a backward pass.
    zeta : float, default 0.5
        Step along the gradient of the loss, in units of the state (of the latent, where there
        is one; the loss is always that of images).
    loss : str, default 'norm'
        ``norm``, the *unsquared* residual norm as in the released code (half the step of ``zeta
        / |r|`` times the gradient of ``|r|^2``), or ``l1``, the mean of ``|r|`` over all
        pixels, hidden ones too.
    perceptual : str, default 'none'
        A distance added to the loss, of prediction and measurement with hidden pixels at zero:
        ``none``, ``stlpips``, ``lpips_vgg`` or ``lpips_alex``.
    perceptual_weight : float, default 1.0
        Its factor.
    view : str, default 'native'
        Coordinates of the state, ``native``, ``vp`` or ``ve``; the same zeta means something
        else in each.
    clip : bool, default True
        Clip x0 to [-1, 1], inside the gradient; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight, 1 = none; the gradient goes through both branches.
    grid : str, default 'native'
        Kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.
    variance : str, default 'learned'
        Of a step down, ``fixed`` (that of the posterior) or ``learned`` (the network's own,
        where it has one).

    Notes
    -----
    A fixed zeta with the loss ``norm`` leaves a residual of about ``zeta / 2``, an RMSE of ``zeta /
    (2 sqrt(M))`` per observed scalar. Raises ValueError for an unknown loss, view, compat or
    variance, and for ``released`` with another loss.
    """

    card: ClassVar[Card] = Card(
        title="DPS",
        paper="Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR "
        "2023",
        equations="Algorithm 1 and Section 3.2: z_s = ancestral(z_t) - zeta grad |y - A(x0(z_t))|",
        deviations=(
            "The residual norm is taken per sample, so a result does not depend on its neighbours "
            "in the batch.",
            "With variance=fixed, and where the network has learned none, steps use the small "
            "posterior variance; the "
            "released code reads a learned one from its networks.",
            "The loss l1 and the perceptual distance are not in the paper: VIPaint compares with "
            "such a latent DPS.",
            "Hidden pixels carry no noise and no residual; in the released code their noise "
            "inflates the norm.",
        ),
        compat={
            "released": "One norm over the whole batch, as released: the result then depends on "
            "the batch; each of B "
            "samples gets about 1/sqrt(B) of the step."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1

    steps: int = 1000
    zeta: float = 0.5
    loss: str = "norm"
    perceptual: str = "none"
    perceptual_weight: float = 1.0
    view: str = "native"
    clip: bool = True
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"
    variance: str = "learned"

    def __post_init__(self) -> None:
        check_variance(self.variance)
        for name, valid in (("loss", tuple(LOSSES)), ("view", VIEWS), ("compat", COMPAT)):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        if self.compat == "released" and (self.loss, self.perceptual) != ("norm", "none"):
            raise ValueError("compat=released knows loss=norm and perceptual=none alone")

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view(self.view)
        process, shape = prior.process, prior.latent_shape
        levels = prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean state, and how the loss of its image changes with the noisy one.
            x0, fraction, slope = self._predict(z, t, obs, prior)
            # Step down, then towards the observation.
            z = step_down(process, z, x0, fraction, t, s, noise.normal(shape)) - self.zeta * slope
        return prior.decode(z)

    def _predict(
        self, z_t: Tensor, t: Level, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """``x0(z_t)``, the learned variance, and the gradient of the loss with respect to
        ``z_t``.
        """
        with torch.enable_grad():
            z_t = z_t.detach().requires_grad_()
            x0, fraction = predict(prior, z_t, t, obs.cond, self.guidance, self.variance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            x = prior.decode(x0)
            loss = LOSSES[self.loss](x, obs)
            if self.perceptual != "none":
                loss = loss + self.perceptual_weight * perceptual_distance(x, obs)
            if self.compat == "released":
                loss = torch.linalg.vector_norm(loss)
            return x0.detach(), fraction, gradient(loss, z_t)
