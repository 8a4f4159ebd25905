"""High dynamic range: the observation is the image overexposed, with its bright and dark ends cut
off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class HDR(Operator):
    """``A x = clip(scale x, -1, 1)`` for every value, as in RED-diff (Mardani et al., ICLR 2024).
    Noise is not clipped.

    Gradients are zero where the image is saturated. The proximal step is exact although ``A`` is
    not linear.

    Parameters
    ----------
    scale : float, default 2.0
        By how much contrast is raised before clipping.
    sigma : float, default 0.0
        Noise level, in [-1, 1] units.

    Notes
    -----
    Raises ValueError for a ``scale`` below 1 and a negative ``sigma``.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear", "prox"})

    scale: float = 2.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.scale < torch.inf:
            raise ValueError(f"scale {self.scale} cuts nothing off; give a number from 1 on")
        self.check_sigma()

    def A(self, x: Tensor) -> Tensor:
        return (self.scale * x).clamp(-1, 1)

    def first_guess(self, y: Tensor) -> Tensor:
        """``y / scale``, an image that is nowhere saturated more than it must be."""
        return y / self.scale

    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """The best of the best dark, the best middle and the best bright value, each a quadratic
        problem.
        """
        edge = 1 / self.scale
        middle = (self.scale * y + rho * x) / (self.scale**2 + rho)
        best = torch.stack([x.clamp(max=-edge), middle.clamp(-edge, edge), x.clamp(min=edge)])
        cost = (self.A(best) - y).square() + rho * (best - x).square()
        return best.gather(0, cost.argmin(0, keepdim=True))[0]
