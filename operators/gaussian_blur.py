"""Gaussian deblurring: the observation is the image, blurred."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.window_blur import WindowBlur


@dataclass(frozen=True)
class GaussianBlur(WindowBlur):
    """Blur images with a Gaussian window.

    As in DPS (Chung et al., ICLR 2023), the window is cut off at four standard deviations, inside a
    square of ``kernel`` pixels: 61 pixels and deviation 3 leave 25 x 25 weights. Their sum is 1,
    and their centre is the pixel. Small images are continued as often as the window reaches beyond
    them.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    kernel : int, default 61
        Side of the window in pixels, odd.
    deviation : float or tuple[float, float], default 3.0
        Standard deviation of the window in pixels, above 0. Two numbers are the deviations along
        the height and along the width.
    border : str, default 'reflect'
        What lies beyond the image: ``reflect``, the image mirrored at its border pixels;
        ``circular``, the image repeated; ``zero``, mid-grey.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    rcond : float, default 0.1
        Singular values up to ``rcond`` times the largest one are truncated: the pseudo-inverse
        leaves them out, and the spectrum has 0 there. In [0, 1).

    Raises
    ------
    ValueError
        If ``kernel`` is not odd and positive, ``deviation`` is not one or two positive and finite
        numbers, ``border`` is unknown, ``sigma`` is negative, or ``rcond`` is outside [0, 1).

    Notes
    -----
    Most singular values are below 1e-2 and the smallest are near 1e-7. A division by them would
    return amplified noise. With ``rcond`` 0.1 and deviation 3, the pseudo-inverse of white noise is
    no larger than the noise: 0.93 of it, root mean square. Measurements without noise allow 1e-3,
    which amplifies noise 94 times. The proximal step at a positive ``rho`` truncates nothing.
    """

    shape: tuple[int, int, int]
    kernel: int = 61
    deviation: float | tuple[float, float] = 3.0
    border: str = "reflect"
    sigma: float = 0.0
    rcond: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self._deviations) != 2:
            raise ValueError(
                f"deviation {self.deviation}: give one number, or two, for the height and the width"
            )
        for deviation in self._deviations:
            if not 0 < deviation < math.inf:
                raise ValueError(
                    f"deviation {deviation} is no width of a window; "
                    "give a positive number of pixels"
                )

    @override
    def weights(self, axis: int) -> Tensor:
        deviation = self._deviations[axis]
        radius = min(self.kernel // 2, int(4 * deviation + 0.5))
        taps = torch.arange(-radius, radius + 1)
        weights = torch.exp(-0.5 * (taps.double() / deviation) ** 2)
        return weights / weights.sum()

    @property
    def _deviations(self) -> tuple[float, ...]:
        """The deviations along the height and along the width."""
        if isinstance(self.deviation, tuple):
            return self.deviation
        return self.deviation, self.deviation
