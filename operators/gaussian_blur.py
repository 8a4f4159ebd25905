"""Gaussian deblurring: the observation is the image, blurred."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.separable import Separable, reflected, weighted


@dataclass(frozen=True)
class GaussianBlur(Separable):
    """Blur images with a Gaussian window; images are mirrored at their border pixels.

    As in DPS (Chung et al., ICLR 2023), the window is cut off at four standard deviations, inside a
    square of ``kernel`` pixels: 61 pixels and deviation 3 leave 25 x 25 weights. Small images are
    mirrored as often as the window reaches beyond them.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    kernel : int, default 61
        Side of the window in pixels, odd.
    deviation : float, default 3.0
        Standard deviation of the window in pixels, above 0.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    rcond : float, default 0.1
        Singular values up to ``rcond`` times the largest one are truncated: the pseudo-inverse
        leaves them out, and the spectrum has 0 there. In [0, 1).

    Raises
    ------
    ValueError
        If ``kernel`` is not odd and positive, ``deviation`` is not positive and finite, ``sigma``
        is negative, or ``rcond`` is outside [0, 1).

    Notes
    -----
    Most singular values are below 1e-2 and the smallest are near 1e-7. A division by them would
    return amplified noise. With ``rcond`` 0.1 and deviation 3, the pseudo-inverse of white noise is
    no larger than the noise: 0.93 of it, root mean square. Measurements without noise allow 1e-3,
    which amplifies noise 94 times. The proximal step at a positive ``rho`` truncates nothing.
    """

    shape: tuple[int, int, int]
    kernel: int = 61
    deviation: float = 3.0
    sigma: float = 0.0
    rcond: float = 0.1

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"kernel={self.kernel} has no central pixel; give an odd number of pixels"
            )
        if not 0 < self.deviation < math.inf:
            raise ValueError(
                f"deviation {self.deviation} is no width of a window; "
                "give a positive number of pixels"
            )
        self.check_sigma()
        self.check_rcond()

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the adjoint of ``y``: the truncated pseudo-inverse has ripples at edges."""
        return self.At(y)

    @override
    def line(self, size: int) -> Tensor:
        radius = min(self.kernel // 2, int(4 * self.deviation + 0.5))
        taps = torch.arange(-radius, radius + 1)
        weights = torch.exp(-0.5 * (taps.double() / self.deviation) ** 2)
        pixels = reflected(torch.arange(size)[:, None] + taps, size)
        return weighted(pixels, weights / weights.sum(), size)
