"""PSLD: latent DPS, with a second gradient towards images that the autoencoder can represent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, norm
from posterior_bench.solvers.shared.levels import loop_grid
from posterior_bench.solvers.shared.likelihood import gradient

VIEWS = ("native", "vp", "ve")
COMPAT = ("none", "released")


@dataclass(frozen=True)
class PSLD(Sampler):
    """Posterior sampling with latent diffusion of Rout et al. (2023), Algorithm 2.

    It takes every linear operator.

    Parameters
    ----------
    steps : int, default 1000
        Number of steps, one network call and one backward pass through network, decoder and encoder
        each.
    weight_data : float, default 0.1
        Step along the gradient of the residual norm ``|y - A x|`` of the decoded prediction ``x``,
        in units of the latent (omega in the code, eta in the paper). The norm is not squared.
    weight_glue : float, default 0.1
        Step along the gradient of ``|E(At y + x - At A x) - x0|``, in units of the latent (gamma in
        the code). This norm, not squared, is zero if the prediction with the measurement put in
        encodes to itself.
    eta : float, default 0.0
        Share of fresh noise in each step, in [0, 1]: 1 is the ancestral step, 0 is DDIM.
    view : str, default 'native'
        Coordinates of the state: ``native``, ``vp`` or ``ve``. The same weights mean different
        steps in each.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If ``view`` or ``compat`` is unknown or ``eta`` is outside [0, 1].
    """

    card: ClassVar[Card] = Card(
        title="PSLD",
        paper="Rout et al., Solving Linear Inverse Problems Provably via Posterior Sampling with "
        "Latent Diffusion Models, NeurIPS 2023",
        equations="Algorithm 2, with the unsquared norms of the released code: z_s = DDIM(z_t) - "
        "grad [weight_data |y - A D(x0)| + weight_glue |E(At y + D(x0) - At A D(x0)) - x0|]",
        deviations=(
            "Norms are taken per sample, so a result does not depend on its neighbours in the "
            "batch.",
            "The released code adds fresh noise to A D(x0) at every step, hidden pixels included. "
            "Here there is none.",
            "The encoder gives the mean of its Gaussian; the released code draws from it.",
            "The chain ends at zero noise; the released code's ends at native index 0.",
            "The glued image is x + At (y - A x). For a mask it has the measurement put in. For a "
            "blur it is one step of steepest descent on |y - A x|^2 / 2. For bicubic super-"
            "resolution by 4 this step is short: no eigenvalue of A At is above 1/16, so at least "
            "15/16 of the residual is left.",
        ),
        compat={
            "released": "Levels are every (1000 / steps)-th native index, from 1 up, and the chain "
            "ends at index 0. With 1000 steps the network is told 1000 to 1, while the "
            "coefficients are those of 999 to 0. In place of At stands what the released operators "
            "call their transpose: the measurement itself for blurs, and every pixel repeated for "
            "super-resolution. On a golden run of the released code, 3 x 4 x 4 with a mixture "
            "prior and a mask, samples were 0.081 apart before the levels were taken over; now "
            "5e-16. The noise on A D(x0) and the draw of the encoder stay out."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad", "latent", "linear"})
    version: ClassVar[int] = 2

    steps: int = 1000
    weight_data: float = 0.1
    weight_glue: float = 0.1
    eta: float = 0.0
    view: str = "native"
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"unknown view '{self.view}'; valid: {', '.join(VIEWS)}")
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view(self.view)
        shape = prior.latent_shape
        levels = loop_grid(prior, self.steps, self.grid, self.compat, "leading_one")
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Predict the clean latent, and the gradient of both losses in the noisy one.
            x0, slope = self._predict(z, t, obs, prior)
            # Step down, then towards the observation and towards images that encode to themselves.
            fresh = noise.normal(shape) if self.eta else None
            z = prior.process.bridge(z, x0, t, s, self.eta, fresh) - slope
        return prior.decode(z)

    def _predict(
        self, z_t: Tensor, t: Level, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """Return ``x0(z_t)`` and the gradient of the weighted losses with respect to ``z_t``."""
        with torch.enable_grad():
            z_t = z_t.detach().requires_grad_()
            x0 = prior.denoise(z_t, t, obs.cond, self.guidance)
            x = prior.decode(x0)
            residual = obs.operator.residual(x, obs.y)
            data = self.weight_data * norm(residual)
            glued = x + self._back(residual, obs, x)
            glue = self.weight_glue * norm(prior.encode(glued) - x0)
            return x0.detach(), gradient(data + glue, z_t)

    def _back(self, residual: Tensor, obs: Observation, x: Tensor) -> Tensor:
        """Return ``At`` of the residual, or what the released code has for it."""
        if self.compat == "none" or residual.dim() != 4:
            return obs.operator.At(residual)
        if residual.shape == x.shape:
            return residual
        return F.interpolate(residual, size=x.shape[-2:], mode="nearest")
