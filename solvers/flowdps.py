"""FlowDPS: steps of a flow whose clean part is pulled to the measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import CLEAN, Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, norm
from posterior_bench.solvers.shared.likelihood import gradient

RESIDUALS: dict[str, Callable[[Operator, Tensor], Tensor]] = {
    "plain": lambda operator, r: r,
    "pinv": lambda operator, r: operator.pinv(r),
    "adjoint": lambda operator, r: operator.At(r),
}
NEEDED = {"plain": frozenset[str](), "pinv": {"pinv"}, "adjoint": {"linear"}}
MIXES = ("time", "full")
SHIFT, TRAINED_SHIFT, TRAINED_STEPS = 4.0, 3.0, 1000


@dataclass(frozen=True)
class FlowDPS(Sampler):
    """Flow-driven posterior sampling of Kim et al. (2025).

    A flow state is ``(1 - u) x0 + u eps``. Each step predicts both parts. It pulls the clean part
    to the measurement by gradients through the decoder alone, and mixes fresh noise into the other.

    Parameters
    ----------
    steps : int, default 28
        Number of steps, one network call each.
    step : float, default 15.0
        Length of a data step, 0 or more, in units of the latent. The gradient is that of a norm
        that is not squared, so the length does not shrink near the measurement.
    data_steps : int, default 3
        Data steps per level, 0 or more, one pass through the decoder and back each.
    residual : str, default 'plain'
        What the norm is of, with ``r = y - A x``: ``plain`` takes ``r``, ``pinv`` its
        pseudo-inverse, ``adjoint`` its adjoint.
    mix : str, default 'time'
        Weight of the pulled prediction beside the free one: ``time`` is the flow time ``u``, so the
        pull fades out; ``full`` is 1 at every level.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`, or
        ``shifted``, the grid of the released code.

    Raises
    ------
    ValueError
        If ``residual`` or ``mix`` is unknown, or ``step`` or ``data_steps`` is negative.

    Notes
    -----
    The grid ``shifted`` has ``u = s_4(t)``, ``t`` evenly from 1 to ``s_3(0.001)``, then 0, with
    ``s_k(t) = k t / (1 + (k - 1) t)``: 1, 0.9905, ..., 0.1426, 0.0119, 0 for 28 steps.
    """

    card: ClassVar[Card] = Card(
        title="FlowDPS",
        paper="Kim et al., FlowDPS: Flow-Driven Posterior Sampling for Inverse Problems, ICCV 2025",
        equations="The step z_s = (1 - u') [(1 - u) x0 + u c] + u' [sqrt(u') eps + sqrt(1 - u') "
        "xi] of the released code, where c is x0 after the data steps",
        deviations=(
            "The norm is taken per sample; the released code has one norm for the batch.",
            "The norm is that of y - A x. The released code applies the pseudo-inverse for "
            "super-resolution (residual=pinv) and the adjoint else (residual=adjoint).",
            "The paper describes several steps of conjugate gradients; these are the gradient "
            "steps of the released code.",
            "A data step has the length `step` in latent space, whatever the residual: this "
            "setting belongs to one autoencoder.",
            "The last correction enters with the weight of its small u, so samples need not agree "
            "with the measurement. Without data steps the chain is a sampler of the prior that "
            "under-disperses.",
            "Gradients are in float32; those of the released code are in half precision.",
            "grid=shifted is the grid that the released code gets from diffusers 0.30. Newer "
            "versions ignore its shift of 4.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1

    steps: int = 28
    step: float = 15.0
    data_steps: int = 3
    residual: str = "plain"
    mix: str = "time"
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        for name, valid in (("residual", tuple(RESIDUALS)), ("mix", MIXES)):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        for name in ("step", "data_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        return super().lacks(has, sigma) | (NEEDED[self.residual] - has)

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        shifted = self.grid == "shifted"
        levels = shifted_grid(prior, self.steps) if shifted else prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for t, s in pairwise(levels):
            # Split the state into its clean part and its noise.
            with torch.no_grad():
                x0 = prior.denoise(z, t, obs.cond, self.guidance)
            eps = process.eps(z, x0, t)
            # Pull the clean part to the measurement, less and less, and renew some of the noise.
            weight = t.flow_time if self.mix == "time" else 1.0
            x0 = (1 - weight) * x0 + weight * self._pulled(x0, obs, prior)
            kept = s.flow_time
            eps = kept**0.5 * eps + (1 - kept) ** 0.5 * noise.normal(shape)
            # Step down.
            z = process.add_noise(x0, s, eps)
        return prior.decode(z)

    def _pulled(self, x0: Tensor, obs: Observation, prior: Prior) -> Tensor:
        """Return the clean state after the data steps."""
        for _ in range(self.data_steps):
            with torch.enable_grad():
                x0 = x0.detach().requires_grad_()
                residual = obs.operator.residual(prior.decode(x0), obs.y)
                slope = gradient(norm(RESIDUALS[self.residual](obs.operator, residual)), x0)
            x0 = x0.detach() - self.step * slope
        return x0


def shifted_grid(prior: Prior, steps: int) -> list[Level]:
    """Return the levels of the released code, ``steps`` and the clean end.

    Stable Diffusion 3 shifts the ends by 3; the released code shifts the grid between them by 4.
    """
    last = _shifted(1 / TRAINED_STEPS, TRAINED_SHIFT)
    times = [1 - (1 - last) * i / max(steps - 1, 1) for i in range(steps)]
    return [*(prior.level_at_time(_shifted(time, SHIFT)) for time in times), CLEAN]


def _shifted(time: float, shift: float) -> float:
    return shift * time / (1 + (shift - 1) * time)
