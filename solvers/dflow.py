"""D-Flow: search for the noise whose image, at the end of the flow, fits the measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, norm
from posterior_bench.solvers.shared.lbfgs import lbfgs

COMPAT = ("none", "released")


@dataclass(frozen=True)
class DFlow(Sampler):
    """D-Flow of Ben-Hamu et al. (2024), in the form of the PnP-Flow benchmark.

    The flow is an ordinary differential equation that takes noise ``eps`` to an image ``F(eps)``.
    The solver minimises ``|y - A F(eps)|^2 + lam (|eps|^2 / 2 - (d - 1) log |eps|)`` over the noise
    of every image, by L-BFGS through all steps of the flow.

    Parameters
    ----------
    iterations : int, default 225
        Evaluations of the loss and its gradient, positive. Each takes ``2 steps`` network calls and
        as many backward passes.
    steps : int, default 5
        Midpoint steps of the flow, positive, two network calls each.
    lam : float, default 0.001
        Weight of the negative log density of the length of the noise, 0 or more.
    blend : float, default 0.1
        Share, in [0, 1], of the variance at the start that comes from the noise of the first guess.
        The rest is fresh.
    inversion_steps : int, default 20
        Midpoint steps of the flow from the first guess back to its noise, positive, two network
        calls each. With ``blend`` 0 there are none.
    history : int, default 20
        Evaluations that L-BFGS remembers, 0 or more. Each takes the memory of two states.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If ``compat`` is unknown or a setting is out of range.

    Notes
    -----
    All network calls of an evaluation are in one graph. ``checkpointing=call`` keeps their inputs
    alone.
    """

    card: ClassVar[Card] = Card(
        title="D-Flow",
        paper="Ben-Hamu et al., D-Flow: Differentiating through Flows for Controlled Generation, "
        "ICML 2024",
        equations="The loss |y - A F(eps)|^2 + lam (|eps|^2 / 2 - (d - 1) log |eps|) and the "
        "blended start, as in the code of PnP-Flow (Martin et al., ICLR 2025)",
        deviations=(
            "Every row has an L-BFGS of its own, which shortens steps until the loss falls enough. "
            "The released code has one L-BFGS for the batch, with a strong Wolfe line search.",
            "iterations counts evaluations of the loss. One call of the released optimiser makes "
            "about 25, so its 9 calls are 225 here.",
            "The flow back to the noise of the first guess has midpoint steps of one length; the "
            "released code has adaptive steps. It begins at the cleanest level of the network.",
            "The flow runs in flow coordinates for priors of any process, from their noisiest "
            "level. Midpoint steps depend on coordinates.",
            "The method seeks a mode: the spread of draws comes from the start alone and is far "
            "below that of the posterior.",
        ),
        compat={
            "released": "The regulariser has the wrong sign, so it rewards long noise, and |eps|^2 "
            "is cut off at 1e6. The code was so until March 2026; by the dates, the tables of the "
            "PnP-Flow and FLOWER papers were made with it. On two correlated pixels it diverges."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("iterations",)

    iterations: int = 225
    steps: int = 5
    lam: float = 0.001
    blend: float = 0.1
    inversion_steps: int = 20
    history: int = 20
    guidance: float = 1.0
    compat: str = "none"

    def __post_init__(self) -> None:
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")
        for name in ("iterations", "steps", "inversion_steps"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lam", "history"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend {self.blend} is outside [0, 1]; it is a share of the start")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view("flow")
        # Start from fresh noise, blended with that of the first guess.
        eps = (1 - self.blend) ** 0.5 * noise.normal(prior.latent_shape)
        if self.blend:
            with torch.no_grad():
                eps = eps + self.blend**0.5 * self._noise_of_first_guess(obs, prior)

        def loss(eps: Tensor) -> Tensor:
            residual = obs.operator.residual(self._image(eps, obs, prior), obs.y)
            return residual.square().flatten(1).sum(1) + self.lam * self._improbable(eps)

        # Search for the noise of the image, and follow its flow.
        eps = lbfgs(loss, eps, self.iterations, self.history)
        with torch.no_grad():
            return self._image(eps, obs, prior)

    def _image(self, eps: Tensor, obs: Observation, prior: Prior) -> Tensor:
        """Return the image ``F(eps)`` at the end of the flow."""
        levels = _levels(prior, self.steps)
        return prior.decode(self._follow(levels[0].sigma * eps, levels, obs, prior))

    def _noise_of_first_guess(self, obs: Observation, prior: Prior) -> Tensor:
        """Return the noise at the other end of the flow that ends in the first guess."""
        *noisy, _ = _levels(prior, self.inversion_steps)
        levels = [prior.level(prior.process.ratio_min), *reversed(noisy)]
        z = prior.encode(obs.operator.first_guess(obs.y))
        return self._follow(z, levels, obs, prior) / levels[-1].sigma

    def _follow(self, z: Tensor, levels: list[Level], obs: Observation, prior: Prior) -> Tensor:
        """Follow the flow from the first level to the last, two levels per midpoint step."""
        process = prior.process
        for t, middle, s in zip(levels[:-2:2], levels[1:-1:2], levels[2::2], strict=True):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            halfway = process.bridge(z, x0, t, middle, 0.0, None)
            x0 = prior.denoise(halfway, middle, obs.cond, self.guidance)
            z = z + (s.sigma - t.sigma) * (process.eps(halfway, x0, middle) - x0)
        return z

    def _improbable(self, eps: Tensor) -> Tensor:
        """Return the negative log density of the length of noise, ``(N,)``, but for a constant."""
        length, count = norm(eps), eps[0].numel()
        if self.compat == "none":
            return length**2 / 2 - (count - 1) * (length + 1e-5).log()
        square = (length**2).clamp_max(1e6)
        return (count - 1) * (square.sqrt() + 1e-5).log() - square / 2


def _levels(prior: Prior, steps: int) -> list[Level]:
    """Return the levels of midpoint steps: both ends of every step, and its middle."""
    top = prior.level(prior.process.ratio_max)
    return prior.grid(2 * steps, "uniform_time", start=top)
