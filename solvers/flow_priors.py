"""Flow-Priors: follow the flow, and at every time optimise the state under its own likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import gradient
from posterior_bench.solvers.shared.rows import dot

OPTIMISERS = ("fresh", "kept")
FIRST = 1e-3
"""The first time of the flow, counted from noise at 0 to the image at 1."""


@dataclass(frozen=True)
class FlowPriors(Sampler):
    """Iterative corrupted trajectory matching of Zhang et al. (2024), in the PnP-Flow benchmark.

    The MAP problem is split into one problem per time ``t`` of the flow, from noise at 0 to the
    image at 1. The state is moved to where its next state ``x + dt v`` measures like ``t y + (1 -
    t) A x_init``, with little change of volume and a high density; then it follows the flow.

    Parameters
    ----------
    steps : int, default 100
        Number of times, positive. Each takes ``inner_steps`` network calls with three backward
        passes, and one call without.
    lam : float, default 10000.0
        Weight of the residual beside the density, 0 or more.
    lr : float, default 0.01
        Step size of Adam, 0 or more. The first step of Adam moves every number by exactly ``lr``,
        so with the default settings ``lam`` decides nothing but signs.
    inner_steps : int, default 1
        Steps of Adam per time, positive.
    optimiser : str, default 'fresh'
        ``fresh`` starts Adam anew at every time; ``kept`` keeps its averages.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.

    Raises
    ------
    ValueError
        If ``optimiser`` is unknown or a setting is out of range.
    """

    card: ClassVar[Card] = Card(
        title="Flow-Priors",
        paper="Zhang et al., Flow Priors for Linear Inverse Problems via Iterative Corrupted "
        "Trajectory Matching, NeurIPS 2024",
        equations="The loop in the code of PnP-Flow (Martin et al., ICLR 2025): Adam on lam |A(x + "
        "dt v) - (t + dt) y - (1 - t - dt) A x_init|^2 + dt tr(dv / dx) - log p_t(x)",
        deviations=(
            "With one inner step and a fresh Adam, the method is sign descent.",
            "Losses are per sample, so a result does not depend on its neighbours in the batch.",
            "The trace is estimated with one random sign per number, by a gradient of v where the "
            "released code carries a tangent forward. Both are the same number.",
            "Times begin at 0.001, but steps have the length 1 / steps, as in the released code. "
            "So the last network call is 0.999 of a step before the end.",
            "The score of x is the exact one, which a network trained on paired noise and images "
            "(optimal transport) has only nearly.",
            "The method runs in the coordinates of a flow alone: steps by signs depend on them. It "
            "seeks a mode; the spread of draws comes from the start and is below that of the "
            "posterior.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"flow", "grad", "pixel"})
    version: ClassVar[int] = 1

    steps: int = 100
    lam: float = 10000.0
    lr: float = 0.01
    inner_steps: int = 1
    optimiser: str = "fresh"
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise ValueError(
                f"unknown optimiser '{self.optimiser}'; valid: {', '.join(OPTIMISERS)}"
            )
        for name in ("steps", "inner_steps"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lam", "lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        if prior.process.kind != "flow":
            raise ValueError(
                f"Flow-Priors runs in the coordinates of a flow, and this prior has those of "
                f"{prior.process.kind}; choose a flow prior"
            )
        shape, dt = prior.latent_shape, 1 / self.steps
        # Start from pure noise, whose measurement stays part of all targets.
        first = noise.normal(shape)
        start, x = obs.operator.A(first), first.clone()
        adam = torch.optim.Adam([x], lr=self.lr)
        for k in range(self.steps):
            time = FIRST + (1 - FIRST) * k / self.steps
            level = prior.level_at_time(1 - time)
            target = (time + dt) * obs.y + (1 - time - dt) * start
            # Move the state to where its next state measures like the target.
            if self.optimiser == "fresh":
                adam = torch.optim.Adam([x], lr=self.lr)
            for _ in range(self.inner_steps):
                sign = torch.where(noise.uniform(shape) < 0.5, -1.0, 1.0).to(x.dtype)
                slope, eps = self._slope(x, level, target, sign, obs, prior)
                # The negative log density enters by its gradient alone.
                x.grad = slope + (x if k == 0 else eps / level.sigma)
                adam.step()
            # Follow the flow.
            with torch.no_grad():
                x += dt * self._velocity(x, level, obs, prior)[0]
        return x

    def _velocity(
        self, x: Tensor, level: Level, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity of the flow towards the image, and the noise in the state."""
        x0 = prior.denoise(x, level, obs.cond, self.guidance)
        eps = prior.process.eps(x, x0, level)
        return x0 - eps, eps

    def _slope(
        self, x: Tensor, level: Level, target: Tensor, sign: Tensor, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient of residual and change of volume, and the noise in the state."""
        dt = 1 / self.steps
        # Only the plain formula of attention has a second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = x.detach().requires_grad_()
            v, eps = self._velocity(x, level, obs, prior)
            residual = target - obs.operator.A(x + dt * v)
            # The mean of sign^T (dv / dx) sign is the trace.
            trace = dot(torch.autograd.grad(v, x, sign, create_graph=True)[0], sign)
            loss = self.lam * residual.square().flatten(1).sum(1) + dt * trace
            return gradient(loss, x), eps.detach()
