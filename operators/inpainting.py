"""Inpainting: the observation is the image where the mask is True and zero elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Spectrum


class _Pixels(Spectrum):
    """The spectrum of a mask: every pixel is a coordinate, with the value 1 or 0."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.double())
        self.mask = mask

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return x

    @override
    def image(self, coordinates: Tensor) -> Tensor:
        return coordinates

    @override
    def measured(self, y: Tensor) -> Tensor:
        # where, as in A
        return torch.where(self.mask, y, torch.zeros((), dtype=y.dtype, device=y.device))


@dataclass(frozen=True)
class Inpainting(Operator):
    """Keep the pixels where the mask is True: ``A x = m x``.

    The operator is its own adjoint, pseudo-inverse and projection. Noise reaches observed pixels
    only.

    Parameters
    ----------
    mask : Tensor
        Bool ``(N, 1, H, W)``, True = observed; the benchmark fills it in.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    Raises
    ------
    ValueError
        If ``sigma`` is negative.
    """

    caps: ClassVar[frozenset[str]] = frozenset(
        {"linear", "mask", "projection", "pinv", "prox", "svd"}
    )
    takes_mask: ClassVar[bool] = True

    mask: Tensor = field()  # without a default: the base class has None
    sigma: float = 0.0

    def __post_init__(self) -> None:
        self.check_sigma()

    @override
    def A(self, x: Tensor) -> Tensor:
        # where, not multiply: a NaN in the hole must not leak into the measurement
        return torch.where(self.mask, x, torch.zeros((), dtype=x.dtype, device=x.device))

    @override
    def At(self, y: Tensor) -> Tensor:
        return self.A(y)

    @override
    def spectrum(self, like: Tensor) -> Spectrum:
        return _Pixels(self.mask)

    @override
    def pinv(self, y: Tensor) -> Tensor:
        return self.A(y)

    @override
    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """Return ``(m y + rho x) / (m + rho)``, which is ``x`` in the hole."""
        return torch.where(self.mask, (y + rho * x) / (1 + rho), x)

    @override
    def observe(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.A(x + self.sigma * noise)

    @override
    def paste(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with the observed pixels put back."""
        return torch.where(self.mask, y, x)

    @override
    def repeat(self, times: int) -> Inpainting:
        return replace(self, mask=self.mask.repeat_interleave(times, 0))

    @override
    def to(self, device: torch.device | str) -> Inpainting:
        return replace(self, mask=self.mask.to(device))
