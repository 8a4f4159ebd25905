"""DAPS: at every level follow the flow to the data, sample around its end given y, noise again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import CLEAN, Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler

COMPAT = ("none", "released")


@dataclass(frozen=True)
class DAPS(Sampler):
    """Decoupled annealing posterior sampling of Zhang et al. (2025), Algorithm 1.

    On a latent prior it takes place in the latent space.

    Parameters
    ----------
    steps : int, default 200
        Number of annealing levels, 1 or more.
    ode_steps : int, default 5
        Euler steps of the probability flow at each annealing level, 1 or more; there are
        ``steps * ode_steps`` network calls.
    inner_steps : int, default 100
        Steps of the inner dynamics at each annealing level, 1 or more. They make no network call;
        on a latent prior each has a backward pass through the decoder.
    lr : float, default 5e-05
        Step size of the inner dynamics at the first level, positive.
    lr_end : float, default 0.01
        Share of ``lr`` that the step size falls to, linearly in the level, positive.
    momentum : float, default 0.0
        Momentum of the inner dynamics, in [0, 1). 0 is Langevin dynamics; above 0 it is the HMC
        that was released for latents.
    tau : float, default 0.01
        Standard deviation of the likelihood, positive, in [-1, 1] units. The noise level of the
        measurement is not used.
    ratio_max : float, default 100.0
        First annealing level, as sigma/alpha.
    ratio_min : float, default 0.1
        Last annealing level, as sigma/alpha, below ``ratio_max``.
    ode_ratio : float, default 0.01
        Level at which the probability flow stops, as sigma/alpha, at most ``ratio_min``.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If a setting is out of range or ``compat`` is unknown.

    Notes
    -----
    Without momentum the inner steps are stable if ``lr |A|^2 / tau^2`` is below 2 (1 with
    ``compat=released``), where ``A`` includes the decoder.
    """

    card: ClassVar[Card] = Card(
        title="DAPS",
        paper="Zhang et al., Improving Diffusion Inverse Problem Solving with Decoupled Noise "
        "Annealing, CVPR 2025",
        equations="Algorithm 1: probability flow, Langevin dynamics or HMC on p(x0 | z_t, y) with "
        "p(x0 | z_t) taken as N(x0(z_t), sigma_t^2 I), then z_s ~ N(x0, sigma_s^2 I)",
        deviations=(
            "The data term is the Gaussian log likelihood with standard deviation tau.",
            "Levels above the prior's noisiest are left out: an EDM prior starts at 80, not 100.",
            "A row that turns NaN fails alone; the released code sets the whole batch to zero.",
            "Samples are over-dispersed even with an exact inner sampler, because p(x0 | z_t) is "
            "taken as isotropic.",
        ),
        compat={
            "released": "The data term lacks its factor 1/2, so the standard deviation is tau / "
            "sqrt(2). On a latent prior the gradient of the squared residual is clamped to "
            "[-1, 1], entry by entry. The step size falls with k / (steps + 1), where the paper "
            "has k / steps. On golden runs of the released code, 3 x 4 x 4 with a mixture prior "
            "and a mask, samples were up to 0.25 apart before the last point; now 2e-15. On a VP "
            "prior an ode_ratio below the prior's cleanest level stops there, 2e-6 off."
        },
    )
    version: ClassVar[int] = 3

    steps: int = 200
    ode_steps: int = 5
    inner_steps: int = 100
    lr: float = 5e-5
    lr_end: float = 0.01
    momentum: float = 0.0
    tau: float = 0.01
    ratio_max: float = 100.0
    ratio_min: float = 0.1
    ode_ratio: float = 0.01
    guidance: float = 1.0
    compat: str = "none"

    def __post_init__(self) -> None:
        for name in ("steps", "ode_steps", "inner_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "lr_end", "tau", "ode_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not (0 <= self.momentum < 1 and self.ode_ratio <= self.ratio_min < self.ratio_max):
            raise ValueError(
                "need 0 <= momentum < 1 and levels in order: ode_ratio <= ratio_min < ratio_max"
            )
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior, shape = prior.view("ve"), prior.latent_shape
        start, end = prior.level(self.ratio_max), prior.level(self.ratio_min)
        levels = [*prior.grid(self.steps, "karras", start, end)[:-1], CLEAN]
        annealed = self.steps + 1 if self.compat == "released" else self.steps
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for k, (t, s) in enumerate(pairwise(levels)):
            # Follow the probability flow to its end.
            x0 = self._flow(z, t, obs, prior)
            # Sample around it, given the measurement.
            lr = self.lr * (1 + k / annealed * (self.lr_end - 1))
            x0 = self._inner(x0, t, lr, obs, prior, noise)
            # Add fresh noise of the next level; the next state depends on the sample alone.
            z = prior.process.add_noise(x0, s, noise.normal(shape))
        return prior.decode(z)

    def _flow(self, z: Tensor, start: Level, obs: Observation, prior: Prior) -> Tensor:
        """Return the end of the probability-flow ODE that starts at ``z``.

        Euler steps in sigma are DDIM steps.
        """
        levels = prior.grid(self.ode_steps, "karras", start, prior.level(self.ode_ratio))
        for t, s in pairwise(levels):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            z = prior.process.bridge(z, x0, t, s, eta=0.0, noise=None)
        return z

    def _inner(
        self, centre: Tensor, t: Level, lr: float, obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Run Langevin dynamics with momentum on ``N(z; centre, sigma_t^2 I) p(y | z)``.

        It starts at ``centre``.
        """
        z, shape, mu = centre, centre.shape[1:], self.momentum
        step, spread = math.sqrt(lr), math.sqrt(2 * (1 - mu))
        velocity = noise.normal(shape) if mu else torch.zeros_like(z)
        # In place where a tensor is new: this loop runs a hundred times per few network calls.
        for _ in range(self.inner_steps):
            slope = (z - centre).div_(t.sigma**2).add_(self._data_slope(z, obs, prior))
            push = (spread * noise.normal(shape)).sub_(slope.mul_(step))
            velocity = push.add_(velocity, alpha=mu) if mu else push
            z = z + step * velocity
        return z

    def _data_slope(self, z: Tensor, obs: Observation, prior: Prior) -> Tensor:
        """Return the gradient of ``-log p(y | z)``, through operator and decoder only."""
        released, operator = self.compat == "released", obs.operator
        # The gradient of |r|^2 / (2 tau^2) is r / tau^2 pulled back; released, there is no 1/2.
        scale = (2 if released else 1) / self.tau**2
        if "mask" in operator.caps and not prior.is_latent:
            # A mask is its own adjoint: the same bits, without a graph.
            return operator.A(operator.residual(z, obs.y).mul_(-scale))
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            residual = operator.residual(prior.decode(z), obs.y)
        slope = torch.autograd.grad(residual, z, residual.detach() * scale)[0]
        return slope.clamp(-(self.tau**-2), self.tau**-2) if released and prior.is_latent else slope
