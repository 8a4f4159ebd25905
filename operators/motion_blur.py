"""Motion deblurring: the observation is the image as a shaken camera sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.separable import reflected, weighted

PUBLISHED = 61 / 256
"""Side of the kernel in DPS by the side of its images."""


@dataclass(frozen=True)
class MotionBlur(Operator):
    """``A x``: correlation with the path of a shaken camera, over images mirrored at their border
    pixels.

    The path is drawn as in the kernels of Borodenko that DPS (Chung et al., ICLR 2023) uses; all
    images share it. The line stays one pixel wide on a canvas of twice the kernel, and its
    softening grows with the kernel. The adjoint is exact, border included. The mirrored border
    keeps any transform from making it diagonal, so there is no pseudo-inverse and no proximal step
    in closed form. Products are formed in float64, with Fourier transforms.

    Parameters
    ----------
    shape : tuple[int, int, int]
        ``(C, H, W)`` of the images, handed in.
    kernel : int | None, default None
        Side of the kernel in pixels, odd; None is 61 at 256 pixels and in proportion at other
        sizes.
    intensity : float, default 0.5
        How shaky the path is, from 0, a straight line, to 1.
    sigma : float, default 0.0
        Noise level, in [-1, 1] units.
    seed : int, default 0
        Of the path.

    Notes
    -----
    Raises ValueError for a ``kernel`` that is not odd and at least 3, an ``intensity`` outside [0,
    1] and a negative ``sigma``.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"linear"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    kernel: int | None = None
    intensity: float = 0.5
    sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kernel is not None and (self.kernel < 3 or self.kernel % 2 == 0):
            raise ValueError(f"kernel={self.kernel}: give an odd number of pixels from 3 on")
        if not 0 <= self.intensity <= 1:
            raise ValueError(f"intensity {self.intensity} is outside [0, 1]")
        self.check_sigma()

    @property
    def side(self) -> int:
        """Pixels on a side of the kernel."""
        if self.kernel is not None:
            return self.kernel
        return max(3, 2 * round((PUBLISHED * min(self.shape[1:]) - 1) / 2) + 1)

    @property
    def weights(self) -> Tensor:
        """The kernel ``(side, side)``, float64, of sum 1."""
        return _kernel(self.side, self.intensity, self.seed)

    def A(self, x: Tensor) -> Tensor:
        _, height, width = self.shape
        rows, columns = self._borders(x)
        wide = rows @ x.double() @ columns.T
        # the transform is periodic, but what wraps around falls outside the part that is kept
        spectrum = torch.fft.rfft2(wide) * self._spectrum(x).conj()
        return torch.fft.irfft2(spectrum, s=wide.shape[-2:])[..., :height, :width].to(x.dtype)

    def At(self, y: Tensor) -> Tensor:
        rows, columns = self._borders(y)
        size = (len(rows), len(columns))
        wide = torch.fft.irfft2(torch.fft.rfft2(y.double(), s=size) * self._spectrum(y), s=size)
        return (rows.T @ wide @ columns).to(y.dtype)

    def _borders(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices that extend columns and rows of pixels by half a kernel on either end."""
        _, height, width = self.shape
        return _border(height, self.side // 2, like.device), _border(
            width, self.side // 2, like.device
        )

    def _spectrum(self, like: Tensor) -> Tensor:
        around = self.side - 1
        size = (self.shape[1] + around, self.shape[2] + around)
        return torch.fft.rfft2(self.weights.to(like.device), s=size)


@cache
def _border(size: int, radius: int, device: torch.device) -> Tensor:
    places = reflected(torch.arange(-radius, size + radius)[:, None], size)
    return weighted(places, torch.ones(1), size).to(device)


@cache
def _kernel(side: int, intensity: float, seed: int) -> Tensor:
    """The path as a line of one pixel on a canvas of twice the size, softened and reduced."""
    canvas = 2 * side
    path = _path(np.random.default_rng(seed), canvas * math.sqrt(2), intensity)
    points = path + (1 + 1j) * canvas / 2
    picture = Image.new("L", (canvas, canvas))
    ImageDraw.Draw(picture).line([(point.real, point.imag) for point in points], fill=255)
    softened = picture.filter(
        ImageFilter.GaussianBlur(canvas / 122)
    )  # one pixel at the published size
    weights = torch.from_numpy(
        np.array(softened.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float64)
    )
    return weights / weights.sum()


def _path(rng: np.random.Generator, diagonal: float, intensity: float) -> NDArray[np.complex128]:
    """Points of the path as complex numbers around zero."""
    length = 0.75 * diagonal * (rng.uniform() + rng.uniform(0, intensity**2))
    steps: list[float] = []
    while sum(steps) < length:
        step = rng.beta(1, 30) * (1.1 - intensity) * diagonal
        if step < length:  # so that there are two at least, and a line to draw
            steps.append(step)
    # directions keep to one side of the first, and seldom (jitter) change to the other
    largest = rng.uniform(0, intensity * math.pi)
    jitter = rng.beta(2, 20)
    angles = [rng.uniform(-largest, largest)]
    for _ in steps[1:]:
        angle = rng.triangular(0, intensity * largest, largest + 0.1)
        side = np.sign(angles[-1])
        angles.append(angle * (-side if rng.uniform() < jitter else side))
    path = np.cumsum(np.array(steps) * np.exp(1j * np.array(angles)))
    return (path - path.mean()) * np.exp(1j * rng.uniform(0, math.pi))
