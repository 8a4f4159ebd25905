"""Super-resolution: the observation is the image in fewer pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.borders import weighted
from posterior_bench.operators.separable import Separable

REDUCTIONS = ("bicubic", "average")


@dataclass(frozen=True)
class SuperResolution(Separable):
    """Reduce images with the bicubic kernel of MATLAB's ``imresize``, or block by block.

    ``bicubic``: the cubic of Keys (1981) with a = -1/2 is stretched by ``factor`` against aliasing.
    Pixel centres lie at half-integers, and images are mirrored at their edges. DPS (Chung et al.,
    ICLR 2023) and most later work reduce images this way. ``average``: every measured value is the
    mean of ``factor`` x ``factor`` pixels, as in DDRM (Kawar et al., NeurIPS 2022), DDNM (Wang et
    al., ICLR 2023), MCG-Diff and PnP-DM. The result ``(N, C, H / factor, W / factor)`` is neither
    clipped nor rounded.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    factor : int, default 4
        Factor by which height and width shrink; it must divide both.
    reduction : str, default 'bicubic'
        ``bicubic`` or ``average``.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    Raises
    ------
    ValueError
        If ``factor`` is below 1 or does not divide height and width, ``reduction`` is unknown, or
        ``sigma`` is negative.

    Notes
    -----
    Both are called "sr4" in the literature, and they differ everywhere. Bicubic resizing of PyTorch
    and Pillow, which InverseBench uses, differs from ``imresize`` at the border, where it
    renormalises the kernel. For ``factor`` 4 the bicubic singular values of a line lie between 0.34
    and 0.5. Those of the average are ``1 / factor`` in the image, all of them. So the
    pseudo-inverse truncates nothing.
    """

    shape: tuple[int, int, int]
    factor: int = 4
    reduction: str = "bicubic"
    sigma: float = 0.0

    def __post_init__(self) -> None:
        _, height, width = self.shape
        if self.factor < 1:
            raise ValueError(f"factor {self.factor} reduces nothing; give a whole number from 1 on")
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"factor {self.factor} does not divide the {height} x {width} pixels of an image"
            )
        if self.reduction not in REDUCTIONS:
            raise ValueError(
                f"unknown reduction '{self.reduction}'. Valid: {', '.join(REDUCTIONS)}"
            )
        self.check_sigma()

    @override
    def line(self, size: int, axis: int) -> Tensor:
        starts = self.factor * torch.arange(size // self.factor)[:, None]
        if self.reduction == "average":
            taps = torch.arange(self.factor)
            weights = torch.ones(self.factor)
        else:
            # offsets of all pixels less than two stretched units away from the first output
            centre = (self.factor - 1) / 2
            taps = torch.arange(4 * self.factor + 1) - 2 * self.factor + int(centre)
            weights = _cubic((taps - centre) / self.factor)
        return weighted(starts + taps, weights / weights.sum(), size, "symmetric")


def _cubic(x: Tensor) -> Tensor:
    """Return the interpolation kernel of Keys (1981), Eq. 15."""
    x = x.double().abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
