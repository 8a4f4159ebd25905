"""Motion deblurring: the observation is the image taken by a shaken camera."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.fft import next_fast_len
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator, check_rcond
from posterior_bench.operators.borders import check_border, weighted
from posterior_bench.operators.circulant import Frequencies
from posterior_bench.operators.conjugate_gradients import solve_rows

PUBLISHED = 61 / 256
"""Side of the kernel in DPS divided by the side of its images."""


@dataclass(frozen=True)
class MotionBlur(Operator):
    """Blur images along the path of a shaken camera.

    ``A x`` is the correlation of the image with a kernel that shows the path. The path is drawn as
    in the kernels of Borodenko that DPS (Chung et al., ICLR 2023) uses, once from ``seed``; all
    images share it. The line is one pixel wide on a canvas of twice the kernel, whatever the size
    of the kernel, and its softening grows with the kernel. The centre of the kernel is the pixel.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    kernel : int | None, default None
        Side of the kernel in pixels, odd and at least 3. None means 61 for images of 256 pixels,
        and in proportion for other sizes.
    intensity : float, default 0.5
        How shaky the path is, from 0, a straight line, to 1.
    border : str, default 'reflect'
        What lies beyond the image: ``reflect``, the image mirrored at its border pixels;
        ``circular``, the image repeated; ``zero``, mid-grey.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.
    seed : int, default 0
        Seed of the path.
    rcond : float, default 0.1
        Singular values up to ``rcond`` times the largest one are truncated: the pseudo-inverse
        leaves them out, and the spectrum has 0 there. In [0, 1). Counts for ``circular`` only. With
        0.1, the pseudo-inverse of white noise is 2 to 4 times the noise, root mean square.
    tolerance : float, default 1e-8
        Relative residual at which the proximal step stops, above 0. Counts for ``reflect`` and
        ``zero``.
    iterations : int, default 200
        Largest number of iterations of the proximal step. Counts for ``reflect`` and ``zero``.

    Raises
    ------
    ValueError
        If ``kernel`` is even or below 3, ``intensity`` is outside [0, 1], ``border`` is unknown,
        ``sigma`` is negative, ``rcond`` is outside [0, 1), ``tolerance`` is not positive, or
        ``iterations`` is below 1.

    Notes
    -----
    Products are formed in float64, with Fourier transforms. The adjoint is exact, border included.

    With the border ``circular`` the Fourier transform makes the operator diagonal, so it has a
    spectrum. With the other borders no transform does. Then there is no pseudo-inverse, and the
    proximal step solves its linear system by conjugate gradients, every image by itself. ``rho``
    1e-2 takes some 80 iterations. Below about 1e-3 the largest number of iterations ends the step
    early, with a result smoother than the minimiser and, at ``rho`` 1e-4 and 64 pixels, a relative
    residual of 5e-5.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"linear", "prox"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    kernel: int | None = None
    intensity: float = 0.5
    border: str = "reflect"
    sigma: float = 0.0
    seed: int = 0
    rcond: float = 0.1
    tolerance: float = 1e-8
    iterations: int = 200

    def __post_init__(self) -> None:
        if self.kernel is not None and (self.kernel < 3 or self.kernel % 2 == 0):
            raise ValueError(f"kernel={self.kernel}: give an odd number of pixels from 3 on")
        if not 0 <= self.intensity <= 1:
            raise ValueError(f"intensity {self.intensity} is outside [0, 1]")
        check_border(self.border)
        self.check_sigma()
        check_rcond(self.rcond)
        if not 0 < self.tolerance < 1:
            raise ValueError(
                f"tolerance {self.tolerance} is no relative residual; give a number between 0 and 1"
            )
        if self.iterations < 1:
            raise ValueError(f"{self.iterations} iterations solve nothing; give 1 or more")
        object.__setattr__(self, "caps", self.caps_with({"border": self.border}))

    @override
    @classmethod
    def caps_with(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        return cls.caps | {"pinv", "svd"} if settings.get("border") == "circular" else cls.caps

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
        rows, columns, kernel = _parts(self, x.device)
        # the transform is periodic, but the pixels that wrap around are cut off
        size = _transformed(len(rows)), _transformed(len(columns))
        wide = torch.fft.rfft2(rows @ x.double() @ columns.T, s=size) * kernel.conj()
        return torch.fft.irfft2(wide, s=size)[..., :height, :width].to(x.dtype)

    @override
    def At(self, y: Tensor) -> Tensor:
        rows, columns, kernel = _parts(self, y.device)
        size = _transformed(len(rows)), _transformed(len(columns))
        wide = torch.fft.irfft2(torch.fft.rfft2(y.double(), s=size) * kernel, s=size)
        return (rows.T @ wide[..., : len(rows), : len(columns)] @ columns).to(y.dtype)

    @override
    def spectrum(self, like: Tensor) -> Frequencies:
        if "svd" not in self.caps:
            raise NotImplementedError(
                f"a motion blur with the border '{self.border}' has no spectrum; "
                "use operator.border=circular"
            )
        return _frequencies(self, like.device)

    @override
    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        if "svd" in self.caps:
            return super().prox(x, y, rho)
        # a number stays on the host, where a GPU takes it from
        weight = rho.to(x.device, torch.float64) if isinstance(rho, Tensor) else rho
        if (torch.as_tensor(rho) <= 0).any():
            raise ValueError(
                f"a proximal step at rho 0 needs a pseudo-inverse, which a motion blur with the "
                f"border '{self.border}' lacks; give a positive rho, or operator.border=circular"
            )
        right = self.At(y.double() - self.A(x.double()))
        change = solve_rows(
            lambda v: self.At(self.A(v)) + weight * v, right, self.tolerance, self.iterations
        )
        return x + change.to(x.dtype)

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the adjoint of ``y``, as with every border."""
        return self.At(y)


def _transformed(length: int) -> int:
    """Return the number of pixels that the Fourier transform of a line takes."""
    return int(next_fast_len(length, real=True))


@cache
def _parts(operator: MotionBlur, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return what continues columns and rows beyond their ends, and the transformed kernel."""
    radius = operator.side // 2
    rows, columns = (
        weighted(
            torch.arange(-radius, size + radius)[:, None], torch.ones(1), size, operator.border
        )
        for size in operator.shape[1:]
    )
    size = _transformed(len(rows)), _transformed(len(columns))
    kernel = torch.fft.rfft2(operator.weights, s=size)
    return rows.to(device), columns.to(device), kernel.to(device)


@cache
def _frequencies(operator: MotionBlur, device: torch.device) -> Frequencies:
    radius = operator.side // 2
    around = torch.arange(-radius, radius + 1)[:, None]
    down, across = (
        weighted(around, torch.ones(1), size, "circular") for size in operator.shape[1:]
    )
    # a correlation turns the kernel around, and with it the sign of every phase
    transfer = torch.fft.fft2(down.T @ operator.weights @ across).conj()
    return Frequencies(transfer.to(device), operator.rcond)


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
