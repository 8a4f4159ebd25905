"""Super-resolution: the observation is the image reduced with the antialiased bicubic kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.operators.separable import Separable, mirrored, weighted


@dataclass(frozen=True)
class SuperResolution(Separable):
    """``A x``: bicubic reduction by ``factor`` as of MATLAB's ``imresize``, neither clipped nor
    rounded.

    The cubic of Keys (1981) with a = -1/2 is stretched by ``factor`` against aliasing, pixels are
    centred at halves, and images are mirrored at their edges. DPS (Chung et al., ICLR 2023) and
    most later work reduce images so. Bicubic resizing of PyTorch and Pillow differs at the border,
    where it renormalises the kernel, and a block average, also called "sr4", everywhere.
    Measurements are ``(N, C, H / factor, W / factor)``.

    Parameters
    ----------
    shape : tuple[int, int, int]
        ``(C, H, W)`` of the images, handed in.
    factor : int, default 4
        By how much either side is reduced.
    sigma : float, default 0.0
        Noise level, in [-1, 1] units.

    Notes
    -----
    Raises ValueError for a ``factor`` below 1 or that does not divide both sides, and for a
    negative ``sigma``.
    """

    caps: ClassVar[frozenset[str]] = Separable.caps | {"pinv"}

    shape: tuple[int, int, int]
    factor: int = 4
    sigma: float = 0.0

    def __post_init__(self) -> None:
        _, height, width = self.shape
        if self.factor < 1:
            raise ValueError(f"factor {self.factor} reduces nothing; give a whole number from 1 on")
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"factor {self.factor} does not divide the {height} x {width} pixels of an image"
            )
        self.check_sigma()

    def pinv(self, y: Tensor) -> Tensor:
        """Exact: the singular values of a line are all between 0.34 and 0.5 for ``factor`` 4."""
        rows, columns = self._factors(y)
        spectrum = rows.U.T @ y.double() @ columns.U / (rows.S[:, None] * columns.S)
        return (rows.V.T @ spectrum @ columns.V).to(y.dtype)

    def line(self, size: int) -> Tensor:
        # pixels less than two stretched units away, from the first on the left of the first output
        centre = (self.factor - 1) / 2
        taps = torch.arange(4 * self.factor + 1) - 2 * self.factor + int(centre)
        weights = _cubic((taps - centre) / self.factor)
        starts = self.factor * torch.arange(size // self.factor)
        return weighted(mirrored(starts[:, None] + taps, size), weights / weights.sum(), size)


def _cubic(x: Tensor) -> Tensor:
    """The interpolation kernel of Keys (1981), Eq. 15."""
    x = x.double().abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
