"""FLAIR: fit a latent to the measurement while a flow prior pulls it, from noise to detail."""

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
from posterior_bench.solvers.shared.likelihood import gradient, observed_count
from posterior_bench.solvers.shared.rows import column

CALIBRATED = {
    0.0: 0.155, 0.1: 0.220, 0.2: 0.306, 0.3: 0.399, 0.4: 0.494, 0.5: 0.585,
    0.6: 0.657, 0.7: 0.713, 0.77: 0.729, 0.8: 0.725, 0.9: 0.655, 1.0: 0.261,
}  # fmt: skip
"""Weight of the prior by flow time, calibrated by the authors on Stable Diffusion 3.5 (medium)."""

WEIGHTS = ("calibrated", "flat")


@dataclass(frozen=True)
class FLAIR(Sampler):
    """Flow-based latent alternating inference of Erbach et al. (2025).

    The state is a clean latent ``mu``. At each level it is diffused to the flow time ``u``. One
    step of gradient descent moves it to its prediction ``D``, by ``w(u) (D - mu) / u``. Then steps
    through the decoder move it to the measurement.

    Parameters
    ----------
    steps : int, default 50
        Number of noise levels, one network call each.
    data_steps : int, default 15
        Steps of gradient descent on ``|y - A x|^2`` per level, 0 or more, one pass through the
        decoder and back each.
    data_lr : float, default 0.1
        Length of these steps, 0 or more; they are also multiplied by ``w(u)``. The loss is a sum,
        so the number holds per pixel at every size of an image.
    stop_rmse : float, default 0.01
        A row takes no more data steps at a level once the residual has this root mean square, in
        [-1, 1] units; 0 never stops a row.
    weights : str, default 'calibrated'
        ``w(u)``: ``calibrated`` is the authors' law for Stable Diffusion 3.5, ``flat`` is 0.5.
        Where ``w(u) / u`` is above 2, what the prior knows to be zero grows from level to level; so
        ``flat`` wants a ``time_end`` of 0.25 or more.
    dta : bool, default True
        Keep the noise that the network predicts, and mix in fresh noise with the variance ``1 - (1
        - u)^2``. False draws all noise afresh.
    time_end : float, default 0.18
        The levels lie evenly in the flow time, between 1 and this time, in (0, 1).
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.

    Raises
    ------
    ValueError
        If ``weights`` is unknown or a setting is out of range.
    """

    card: ClassVar[Card] = Card(
        title="FLAIR",
        paper="Erbach et al., Solving Inverse Problems with FLAIR, NeurIPS 2025",
        equations="The loop of the released code: mu - w(u) (v - (n - mu)), which is mu - w(u) (mu "
        "- D) / u, data steps on w(u) |y - A x|^2, and noise that follows the trajectory (DTA)",
        deviations=(
            "Every row stops its data steps by itself. The decoder still runs for a row that has "
            "stopped, so costs do not depend on the data; the released code runs one image.",
            "The calibrated weights are twelve of the hundred released numbers, with straight "
            "lines between. They belong to Stable Diffusion 3.5; the authors calibrate on the "
            "error of a network, once per network.",
            "Levels are asked for by flow time, so priors of any process run alike.",
            "The stop at stop_rmse does not know the noise of the measurement, as in the released "
            "code: noise above it is fitted.",
            "The data steps are weighted by w(u) too, as in the released code. They shrink a "
            "residual; they do not remove it.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1

    steps: int = 50
    data_steps: int = 15
    data_lr: float = 0.1
    stop_rmse: float = 0.01
    weights: str = "calibrated"
    dta: bool = True
    time_end: float = 0.18
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights '{self.weights}'; valid: {', '.join(WEIGHTS)}")
        for name in ("data_steps", "data_lr", "stop_rmse"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.time_end < 1:
            raise ValueError(f"time_end {self.time_end} is outside (0, 1); 1 is pure noise")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        # Start from the first guess, and from noise of its own.
        mu = prior.encode(obs.operator.first_guess(obs.y))
        eps = noise.normal(shape)
        for t in self._levels(prior):
            u = t.flow_time
            weight = self._weight(u)
            # Renew some of the noise, and diffuse the latent.
            kept = 1 - u if self.dta else 0.0
            eps = kept * eps + (1 - kept**2) ** 0.5 * noise.normal(shape)
            z = process.add_noise(mu, t, eps)
            # A step to the prediction, whose noise goes on.
            with torch.no_grad():
                x0 = prior.denoise(z, t, obs.cond, self.guidance)
            eps = process.eps(z, x0, t)
            mu = mu - weight / u * (mu - x0)
            # Steps to the measurement.
            mu = self._fitted(mu, self.data_lr * weight, obs, prior)
        return prior.decode(mu)

    def _levels(self, prior: Prior) -> list[Level]:
        """Return levels evenly in the flow time, between 1 and ``time_end`` but at neither."""
        length = (1 - self.time_end) / (self.steps + 1)
        return [prior.level_at_time(1 - length * (i + 1)) for i in range(self.steps)]

    def _weight(self, u: float) -> float:
        if self.weights == "flat":
            return 0.5
        (a, b) = next((a, b) for a, b in pairwise(CALIBRATED) if u <= b)
        return CALIBRATED[a] + (u - a) / (b - a) * (CALIBRATED[b] - CALIBRATED[a])

    def _fitted(self, mu: Tensor, lr: float, obs: Observation, prior: Prior) -> Tensor:
        """Return the latent after the data steps; rows near the measurement stay."""
        enough = self.stop_rmse**2 * observed_count(obs)
        for _ in range(self.data_steps):
            with torch.enable_grad():
                mu = mu.detach().requires_grad_()
                residual = obs.operator.residual(prior.decode(mu), obs.y)
                loss = residual.square().flatten(1).sum(1)
                slope = gradient(loss, mu)
            # Written so that a row that is NaN stays NaN.
            near = column(loss.detach() < enough, mu)
            mu = mu.detach() - torch.where(near, 0.0, lr * slope)
        return mu.detach()
