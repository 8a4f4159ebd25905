"""TV: the image of least total variation that fits the measurement; no diffusion prior is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Observation
from posterior_bench.solvers.shared.estimate import Estimator

STEP = 1 / math.sqrt(8)
"""Step sizes of both updates: the squared norm of differences of neighbours is at most 8."""


@dataclass(frozen=True)
class TV(Estimator):
    """Maximum a posteriori image of a total variation prior, by a primal-dual algorithm.

    It minimises ``|A x - y|^2 / (2 sigma^2) + weight TV(x)``. Without noise it is the image of
    least total variation that reproduces the measurement.

    Parameters
    ----------
    iterations : int, default 1000
        Number of iterations, at least 1.
    weight : float, default 5.0
        Weight of the total variation, positive, for images in [-1, 1]. It plays no role without
        noise.

    Raises
    ------
    ValueError
        If ``iterations`` is below 1 or ``weight`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="Total variation",
        paper="Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, "
        "Physica D 1992; Chambolle and Pock, A First-Order Primal-Dual Algorithm, JMIV 2011",
        equations="Chambolle and Pock, Algorithm 1 with theta = 1 and equal steps, for the data "
        "term of the operator and the isotropic total variation",
        deviations=(
            "The prior is not used, and all draws of an image are equal. An iteration costs one "
            "proximal step of the operator.",
            "The differences of all channels share one norm, so edges lie at the same place in "
            "every colour.",
            "The dual image is divided by the weight. Then both steps are 1 / sqrt(8), and noise "
            "level and weight enter the proximal step alone.",
            "It always makes all iterations. Across a large hole some hundred are needed.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prox"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ()  # no passes of the network

    iterations: int = 1000
    weight: float = 5.0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not self.weight > 0:
            raise ValueError(f"weight must be positive, got {self.weight}")

    @override
    def estimate(self, obs: Observation, prior: Prior) -> Tensor:
        rho = self.weight * obs.operator.sigma**2 / STEP
        x = ahead = obs.operator.first_guess(obs.y)
        p = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(self.iterations):
            # Climb in the dual image, and shorten its vectors to at most 1.
            p = _shortened(*(q + STEP * d for q, d in zip(p, differences(ahead), strict=True)))
            # Descend in the image, and pull it to the measurement.
            before = x
            x = obs.operator.prox(x - STEP * adjoint(*p), obs.y, rho)
            # Look ahead.
            ahead = 2 * x - before
        return x


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences of every pixel to the one below and to the right, 0 at the border.

    Parameters
    ----------
    x : Tensor
        Images ``(N, C, H, W)``.

    Returns
    -------
    tuple of Tensor
        Differences down and across, each shaped like ``x``.
    """
    return pad(x.diff(dim=-2), (0, 0, 0, 1)), pad(x.diff(dim=-1), (0, 1))


def adjoint(down: Tensor, across: Tensor) -> Tensor:
    """Return the adjoint of :func:`differences`, shaped like each of its results."""
    return -pad(down[..., :-1, :], (0, 0, 1, 1)).diff(dim=-2) - pad(across[..., :-1], (1, 1)).diff()


def _shortened(down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors of all channels and both directions, no longer than 1 in any pixel."""
    length = (down.square() + across.square()).sum(1, keepdim=True).sqrt().clamp_min(1)
    return down / length, across / length
