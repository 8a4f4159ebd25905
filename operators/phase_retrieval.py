"""Phase retrieval: the observation is how strong each frequency of the image is, not where it
sits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.operators.base import Operator

OFFSETS = {"signed": 0.0, "unit": 1.0}
"""What is added to an image in [-1, 1] before it is surrounded by zeros."""


@dataclass(frozen=True)
class PhaseRetrieval(Operator):
    """``A x = |F P x|``: modulus of the centred orthonormal Fourier transform of the image with
    zeros around it.

    Every side gets ``int(oversample / 8 * length)`` zeros, 64 of them for ``oversample`` 2 and 256
    pixels, which gives 2.25 times as many values as pixels. DPS (Chung et al., ICLR 2023) surrounds
    the image in [-1, 1], DAPS (Zhang et al., CVPR 2025) the one in [0, 1]: other problems, with
    grey or black around the image. Amplitudes stay those of the [-1, 1] scale in both, so a noise
    level given for [0, 1] doubles. The image turned by 180 degrees measures the same in both, and
    in ``signed`` its negative too: a solver may rightly return either.

    Parameters
    ----------
    shape : tuple[int, int, int]
        ``(C, H, W)`` of the images, handed in.
    oversample : float, default 2.0
        How much is added around the image.
    domain : str, default 'signed'
        ``signed``, zero is mid-grey, or ``unit``, zero is black.
    sigma : float, default 0.0
        Noise level, in [-1, 1] units.

    Notes
    -----
    Raises ValueError for a negative ``oversample``, an unknown ``domain`` and a negative ``sigma``.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    oversample: float = 2.0
    domain: str = "signed"
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.oversample <= 64:
            raise ValueError(f"oversample {self.oversample} is outside [0, 64]")
        if self.domain not in OFFSETS:
            raise ValueError(f"unknown domain '{self.domain}'. Valid: {', '.join(OFFSETS)}")
        self.check_sigma()

    def A(self, x: Tensor) -> Tensor:
        down, across = self._padding
        padded = torch.nn.functional.pad(x + OFFSETS[self.domain], (across, across, down, down))
        return torch.fft.fftshift(torch.fft.fft2(padded, norm="ortho"), dim=(-2, -1)).abs()

    def first_guess(self, y: Tensor) -> Tensor:
        """The image in [-1, 1] whose frequencies are as strong as ``y`` and all peak at the
        centre.
        """
        _, height, width = self.shape
        down, across = self._padding
        wide = torch.fft.ifft2(torch.fft.ifftshift(y, dim=(-2, -1)), norm="ortho").real
        centred = torch.fft.fftshift(wide, dim=(-2, -1))[
            ..., down : down + height, across : across + width
        ]
        return (centred - OFFSETS[self.domain]).clamp(-1, 1)

    @property
    def _padding(self) -> tuple[int, int]:
        """Zeros above and below, left and right."""
        _, height, width = self.shape
        return int(self.oversample / 8 * height), int(self.oversample / 8 * width)
