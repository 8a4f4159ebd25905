"""Inpainting: the observation is the image where the mask is True and zero elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.masking import PixelMask
from posterior_bench.operators.spectrum import Pixels, Spectrum


class _Observed(Pixels):
    """The spectrum of a mask: every pixel is a coordinate, with the value 1 or 0."""

    def __init__(self, mask: PixelMask) -> None:
        super().__init__(mask.mask.double())
        self.mask = mask

    @override
    def measured(self, y: Tensor) -> Tensor:
        return self.mask.kept(y)


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

    @cached_property
    def _pixels(self) -> PixelMask:
        return PixelMask(self.mask)

    @override
    def A(self, x: Tensor) -> Tensor:
        # not a product: a NaN in the hole must not leak into the measurement
        return self._pixels.kept(x)

    @override
    def At(self, y: Tensor) -> Tensor:
        return self.A(y)

    @override
    def spectrum(self, like: Tensor) -> Spectrum:
        return _Observed(self._pixels)

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
    def select(self, rows: Sequence[int]) -> Inpainting:
        return replace(self, mask=self.mask[list(rows)])

    @override
    def to(self, device: torch.device | str) -> Inpainting:
        return replace(self, mask=self.mask.to(device))
