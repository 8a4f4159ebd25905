"""Uniform deblurring: every measured value is the mean of a square around a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.window_blur import WindowBlur


@dataclass(frozen=True)
class BoxBlur(WindowBlur):
    """Replace every pixel by the mean of the square around it.

    DDRM (Kawar et al., NeurIPS 2022) calls it uniform deblurring. This is the correct blur, with
    all ``kernel`` weights and every channel by itself. The released code of DDRM leaves out the
    last weight and mixes the channels, so its tables cannot be reproduced with it.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    kernel : int, default 9
        Side of the square in pixels, odd.
    border : str, default 'zero'
        What lies beyond the image: ``reflect``, the image mirrored at its border pixels;
        ``circular``, the image repeated; ``zero``, mid-grey.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.
    rcond : float, default 0.1
        Singular values up to ``rcond`` times the largest one are truncated: the pseudo-inverse
        leaves them out, and the spectrum has 0 there. In [0, 1). With 0.1, the pseudo-inverse of
        white noise is twice the noise, root mean square.

    Raises
    ------
    ValueError
        If ``kernel`` is not odd and positive, ``border`` is unknown, ``sigma`` is negative, or
        ``rcond`` is outside [0, 1).
    """

    shape: tuple[int, int, int]
    kernel: int = 9
    border: str = "zero"
    sigma: float = 0.0
    rcond: float = 0.1

    @override
    def weights(self, axis: int) -> Tensor:
        return torch.ones(self.kernel, dtype=torch.float64) / self.kernel
