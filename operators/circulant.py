"""The spectrum of a periodic convolution, in real coordinates."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.spectrum import Spectrum


class Frequencies(Spectrum):
    """The decomposition of a periodic convolution of each channel with one real kernel.

    The Fourier transform ``F`` makes the convolution diagonal, with complex numbers ``K``. The
    coordinates here are real: ``V^T x = Re F x - Im F x``, the Hartley transform, which is
    orthogonal and its own inverse (Bracewell, 1983). The singular values are ``|K|``. ``U`` is
    ``V`` followed by a filter that has the phase of ``K`` and modulus 1.

    Parameters
    ----------
    transfer : Tensor
        ``K``, complex128 ``(H, W)``: the Fourier transform of what the operator makes of a pixel at
        the origin.
    rcond : float, default 0.0
        Values up to ``rcond`` times the largest one are truncated.
    """

    def __init__(self, transfer: Tensor, rcond: float = 0.0) -> None:
        super().__init__(transfer.abs(), rcond)
        # the phase of 0 is 0, so that U stays orthogonal
        self.phase = torch.polar(torch.ones_like(self.exact), transfer.angle())

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return _hartley(torch.fft.fft2(x.double(), norm="ortho")).to(x.dtype)

    @override
    def image(self, coordinates: Tensor) -> Tensor:
        return self.coordinates(coordinates)

    @override
    def measured(self, y: Tensor) -> Tensor:
        frequencies = torch.fft.fft2(y.double(), norm="ortho") * self.phase.conj()
        return _hartley(frequencies).to(y.dtype)


def _hartley(frequencies: Tensor) -> Tensor:
    return frequencies.real - frequencies.imag
