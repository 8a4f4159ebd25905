"""Gaussian deblurring: the observation is the image, blurred."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior_bench.operators.separable import Separable, reflected, weighted


@dataclass(frozen=True)
class GaussianBlur(Separable):
    """``A x``: a Gaussian window over images mirrored at their border pixels.

    As in DPS (Chung et al., ICLR 2023), the window ends at four standard deviations, inside a
    square of ``kernel`` pixels: 61 pixels and deviation 3 leave 25 x 25 weights. Small images are
    mirrored as often as the window reaches beyond them. There is no pseudo-inverse: most singular
    values are below 1e-2 and the smallest near 1e-7, so a division by them returns noise. The
    proximal step divides by nothing small.

    Parameters
    ----------
    shape : tuple[int, int, int]
        ``(C, H, W)`` of the images, handed in.
    kernel : int, default 61
        Side of the window in pixels, odd.
    deviation : float, default 3.0
        Standard deviation of the window in pixels.
    sigma : float, default 0.0
        Noise level, in [-1, 1] units.

    Notes
    -----
    Raises ValueError for a ``kernel`` that is not odd and positive, a ``deviation`` that is not
    positive, and a negative ``sigma``.
    """

    shape: tuple[int, int, int]
    kernel: int = 61
    deviation: float = 3.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"kernel={self.kernel} has no central pixel; give an odd number of pixels"
            )
        if not 0 < self.deviation < math.inf:
            raise ValueError(
                f"deviation {self.deviation} is no width of a window; give a positive number of "
                f"pixels"
            )
        self.check_sigma()

    def line(self, size: int) -> Tensor:
        radius = min(self.kernel // 2, int(4 * self.deviation + 0.5))
        taps = torch.arange(-radius, radius + 1)
        weights = torch.exp(-0.5 * (taps.double() / self.deviation) ** 2)
        return weighted(
            reflected(torch.arange(size)[:, None] + taps, size), weights / weights.sum(), size
        )
