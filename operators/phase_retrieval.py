"""Phase retrieval: the observation is the amplitude of each frequency, without its phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator

OFFSETS = {"signed": 0.0, "unit": 1.0}
"""Number added to an image in [-1, 1] before zeros are put around it."""


@dataclass(frozen=True)
class PhaseRetrieval(Operator):
    """Measure the Fourier amplitudes of the image, padded with zeros: ``A x = |F P x|``.

    ``F`` is the centred orthonormal Fourier transform. Every side gets
    ``int(oversample / 8 * length)`` zeros: 64 of them for ``oversample`` 2 and 256 pixels, which
    gives 2.25 times as many values as pixels.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    oversample : float, default 2.0
        How many zeros surround the image, from 0 to 64: each side gets ``oversample / 8`` of its
        length at both ends.
    domain : str, default 'signed'
        What a padded zero means: ``signed``, mid-grey (DPS), or ``unit``, black (DAPS).
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    Raises
    ------
    ValueError
        If ``oversample`` is outside [0, 64], ``domain`` is unknown, or ``sigma`` is negative.

    Notes
    -----
    DPS (Chung et al., ICLR 2023) pads the image in [-1, 1], DAPS (Zhang et al., CVPR 2025) the
    image in [0, 1]. These are different problems, with grey or black around the image. Amplitudes
    keep the [-1, 1] scale in both, so a noise level that a paper states for [0, 1] doubles: the
    0.05 that DAPS adds to the amplitudes of an image in [0, 1] is ``sigma`` 0.1 here.

    The image turned by 180 degrees has the same measurement in both domains, and with ``signed`` so
    has its negative. A solver may rightly return any of these.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear", "amplitudes"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    oversample: float = 2.0
    domain: str = "signed"
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.oversample <= 64:
            raise ValueError(
                f"oversample {self.oversample} is outside [0, 64]; the published value is 2"
            )
        if self.domain not in OFFSETS:
            raise ValueError(f"unknown domain '{self.domain}'. Valid: {', '.join(OFFSETS)}")
        self.check_sigma()

    @override
    def A(self, x: Tensor) -> Tensor:
        return torch.fft.fftshift(torch.fft.fft2(self.embed(x), norm="ortho"), dim=(-2, -1)).abs()

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the image with amplitudes ``y`` and all phases zero, clipped to [-1, 1]."""
        wide = torch.fft.ifft2(torch.fft.ifftshift(y, dim=(-2, -1)), norm="ortho").real
        return self.extract(torch.fft.fftshift(wide, dim=(-2, -1))).clamp(-1, 1)

    @override
    def embed(self, x: Tensor) -> Tensor:
        down, across = self._padding
        return torch.nn.functional.pad(x + OFFSETS[self.domain], (across, across, down, down))

    @override
    def extract(self, wide: Tensor) -> Tensor:
        _, height, width = self.shape
        down, across = self._padding
        inside = wide[..., down : down + height, across : across + width]
        return inside - OFFSETS[self.domain]

    @override
    def with_amplitudes(self, wide: Tensor, y: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(wide, norm="ortho")
        size = spectrum.abs()
        phase = torch.where(size > 0, spectrum / size.clamp_min(torch.finfo(size.dtype).tiny), 1)
        amplitudes = torch.fft.ifftshift(y, dim=(-2, -1)).clamp_min(0)
        return torch.fft.ifft2(amplitudes * phase, norm="ortho").real

    @property
    def _padding(self) -> tuple[int, int]:
        """Number of zeros above and below, and at the left and right."""
        _, height, width = self.shape
        return int(self.oversample / 8 * height), int(self.oversample / 8 * width)
