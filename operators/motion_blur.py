"""Motion deblurring: the observation is the image taken by a shaken camera."""

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
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.separable import reflected, weighted

PUBLISHED = 61 / 256
"""Side of the kernel in DPS divided by the side of its images."""


@dataclass(frozen=True)
class MotionBlur(Operator):
    """Blur images along the path of a shaken camera; images are mirrored at their border pixels.

    ``A x`` is the correlation of the image with a kernel that shows the path. The path is drawn as
    in the kernels of Borodenko that DPS (Chung et al., ICLR 2023) uses, once from ``seed``; all
    images share it. The line is one pixel wide on a canvas of twice the kernel, whatever the size
    of the kernel, and its softening grows with the kernel.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    kernel : int | None, default None
        Side of the kernel in pixels, odd and at least 3. None means 61 for images of 256 pixels,
        and in proportion for other sizes.
    intensity : float, default 0.5
        How shaky the path is, from 0, a straight line, to 1.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.
    seed : int, default 0
        Seed of the path.

    Raises
    ------
    ValueError
        If ``kernel`` is even or below 3, ``intensity`` is outside [0, 1], or ``sigma`` is negative.

    Notes
    -----
    Products are formed in float64, with Fourier transforms. The adjoint is exact, border included.
    Because of the mirrored border no transform makes the operator diagonal, so it has neither a
    pseudo-inverse nor a proximal step in closed form.
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
        """Side of the kernel in pixels."""
        if self.kernel is not None:
            return self.kernel
        return max(3, 2 * round((PUBLISHED * min(self.shape[1:]) - 1) / 2) + 1)

    @property
    def weights(self) -> Tensor:
        """The kernel ``(side, side)``, float64, with sum 1."""
        return _kernel(self.side, self.intensity, self.seed)

    @override
    def A(self, x: Tensor) -> Tensor:
        _, height, width = self.shape
        rows, columns = self._borders(x)
        wide = rows @ x.double() @ columns.T
        # the transform is periodic, but the pixels that wrap around are cut off
        spectrum = torch.fft.rfft2(wide) * self._spectrum(x).conj()
        return torch.fft.irfft2(spectrum, s=wide.shape[-2:])[..., :height, :width].to(x.dtype)

    @override
    def At(self, y: Tensor) -> Tensor:
        rows, columns = self._borders(y)
        size = (len(rows), len(columns))
        wide = torch.fft.irfft2(torch.fft.rfft2(y.double(), s=size) * self._spectrum(y), s=size)
        return (rows.T @ wide @ columns).to(y.dtype)

    def _borders(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrices that extend columns and rows by half a kernel at both ends."""
        _, height, width = self.shape
        radius = self.side // 2
        return _border(height, radius, like.device), _border(width, radius, like.device)

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
    """Draw the path one pixel wide on a canvas of twice the size, soften it and reduce it."""
    canvas = 2 * side
    path = _path(np.random.default_rng(seed), canvas * math.sqrt(2), intensity)
    points = path + (1 + 1j) * canvas / 2
    picture = Image.new("L", (canvas, canvas))
    ImageDraw.Draw(picture).line([(point.real, point.imag) for point in points], fill=255)
    # one pixel at the published size
    softened = picture.filter(ImageFilter.GaussianBlur(canvas / 122))
    weights = torch.from_numpy(
        np.array(softened.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float64)
    )
    return weights / weights.sum()


def _path(rng: np.random.Generator, diagonal: float, intensity: float) -> NDArray[np.complex128]:
    """Return the points of the path as complex numbers around zero."""
    length = 0.75 * diagonal * (rng.uniform() + rng.uniform(0, intensity**2))
    steps: list[float] = []
    while sum(steps) < length:
        step = rng.beta(1, 30) * (1.1 - intensity) * diagonal
        if step < length:  # so that there are two steps at least, and a line to draw
            steps.append(step)
    # directions keep to one side of the first one, and rarely (jitter) change to the other
    largest = rng.uniform(0, intensity * math.pi)
    jitter = rng.beta(2, 20)
    angles = [rng.uniform(-largest, largest)]
    for _ in steps[1:]:
        angle = rng.triangular(0, intensity * largest, largest + 0.1)
        side = np.sign(angles[-1])
        angles.append(angle * (-side if rng.uniform() < jitter else side))
    path = np.cumsum(np.array(steps) * np.exp(1j * np.array(angles)))
    return (path - path.mean()) * np.exp(1j * rng.uniform(0, math.pi))
