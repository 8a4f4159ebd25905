"""DPS: ancestral sampling with a gradient step on the residual of the predicted clean image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

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
    """Diffusion posterior sampling of Chung et al. (2023), Algorithm 1.

    On a prior with a decoder it is latent DPS.

    Parameters
    ----------
    steps : int, default 1000
        Number of steps, one network call and one backward pass each.
    zeta : float, default 0.5
        Step along the gradient of the loss, in units of the state. On a latent prior that is the
        latent; the loss is always that of images.
    loss : str, default 'norm'
        ``norm`` is the norm of the residual r, not squared, as in the released code: half the step
        of ``zeta / |r|`` times the gradient of ``|r|^2``. ``l1`` is the mean of ``|r|`` over all
        pixels, hidden ones too.
    perceptual : str, default 'none'
        A distance of prediction and measurement, hidden pixels at zero, that is added to the loss:
        ``none``, ``stlpips``, ``lpips_vgg`` or ``lpips_alex``.
    perceptual_weight : float, default 1.0
        Weight of this distance.
    view : str, default 'native'
        Coordinates of the state: ``native``, ``vp`` or ``ve``. The same ``zeta`` means different
        steps in each.
    clip : bool, default True
        Clip x0 to [-1, 1], inside the gradient; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.
    variance : str, default 'learned'
        Variance of a step down: ``fixed``, the variance of the posterior, or ``learned``, the
        network's own if it has learned one.

    Raises
    ------
    ValueError
        If ``loss``, ``view``, ``compat`` or ``variance`` is unknown, or ``compat`` is ``released``
        with another loss than ``norm`` alone.

    Notes
    -----
    A fixed zeta with the loss ``norm`` leaves a residual of about ``zeta / 2``. That is an RMSE of
    ``zeta / (2 sqrt(M))`` for ``M`` observed scalars.
    """

    card: ClassVar[Card] = Card(
        title="DPS",
        paper="Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR "
        "2023",
        equations="Algorithm 1 and Section 3.2: z_s = ancestral(z_t) - zeta grad |y - A(x0(z_t))|",
        deviations=(
            "The residual norm is taken per sample, so a result does not depend on its neighbours "
            "in the batch.",
            "With variance=fixed, or if the network has learned no variance, steps use the small "
            "posterior variance; the released code reads a learned one from its networks.",
            "The loss l1 and the perceptual distance are not in the paper: VIPaint compares with "
            "such a latent DPS.",
            "Hidden pixels carry no noise and no residual, also with compat=released. In the "
            "released code their noise inflates the norm: samples are 0.066 apart at a noise of "
            "0.05, and 4e-13 if the released loop gets this measurement.",
        ),
        compat={
            "released": "One norm over the whole batch, as the released conditioning module has "
            "it: the result depends on the batch, and each of B samples gets about 1/sqrt(B) of "
            "the step. The released loop itself runs one image only; with one image nothing "
            "differs from none. On a golden run of it, 3 x 4 x 4 with a mixture prior and a mask, "
            "samples are 8e-16 apart. Over 1000 steps the loop is chaotic, and no two "
            "implementations agree."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 2

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
            raise ValueError("compat=released goes with loss=norm and perceptual=none only")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view(self.view)
        process, shape = prior.process, prior.latent_shape
        levels = prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean state, and the gradient of its image's loss in the noisy state.
            x0, fraction, slope = self._predict(z, t, obs, prior)
            # Step down, then towards the observation.
            z = step_down(process, z, x0, fraction, t, s, noise.normal(shape)) - self.zeta * slope
        return prior.decode(z)

    def _predict(
        self, z_t: Tensor, t: Level, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return ``x0(z_t)``, the learned variance, and the loss's gradient in ``z_t``."""
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
