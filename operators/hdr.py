"""High dynamic range: the observation is overexposed; its bright and dark ends are cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class HDR(Operator):
    """Raise the contrast and clip: ``A x = clip(scale x, -1, 1)`` for every value.

    The operator is that of RED-diff (Mardani et al., ICLR 2024) and, with ``scale`` 2 and ``sigma``
    0.05, that of DAPS (Zhang et al., CVPR 2025). Noise is added after clipping and is not clipped.

    Parameters
    ----------
    scale : float, default 2.0
        Factor of the contrast before clipping, at least 1.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    Raises
    ------
    ValueError
        If ``scale`` is below 1 or infinite, or ``sigma`` is negative.

    Notes
    -----
    Gradients are zero wherever the image is clipped. The proximal step is exact although ``A`` is
    not linear.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear", "prox"})

    scale: float = 2.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.scale < torch.inf:
            raise ValueError(f"scale {self.scale} cuts nothing off; give a number from 1 on")
        self.check_sigma()

    @override
    def A(self, x: Tensor) -> Tensor:
        return (self.scale * x).clamp(-1, 1)

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return ``y / scale``: clipped values come back at the edge of the clipped range."""
        return y / self.scale

    @override
    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """Compare three minimisers, of the dark, bright and middle part, and return the best.

        ``A`` is constant below ``-1 / scale`` and above ``1 / scale``, and linear between, so the
        objective is quadratic on each part.
        """
        edge = 1 / self.scale
        middle = (self.scale * y + rho * x) / (self.scale**2 + rho)
        # the first of equals is taken: at rho 0 that is the one nearest to x
        best = torch.stack([x.clamp(max=-edge), x.clamp(min=edge), middle.clamp(-edge, edge)])
        cost = (self.A(best) - y).square() + rho * (best - x).square()
        return best.gather(0, cost.argmin(0, keepdim=True))[0]
