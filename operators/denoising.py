"""Denoising: the observation is the image itself, with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Pixels, Spectrum


@dataclass(frozen=True)
class Denoising(Operator):
    """Measure every pixel: ``A x = x``, so that the noise is all there is to remove.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    sigma : float, default 0.2
        Standard deviation of the noise, in [-1, 1] units: 0.2 in PnP-Flow (Martin et al., ICLR
        2025).

    Raises
    ------
    ValueError
        If ``sigma`` is negative.

    Examples
    --------
    >>> Denoising((1, 1, 2)).A(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 1.]]]])
    """

    caps: ClassVar[frozenset[str]] = frozenset({"linear", "projection", "pinv", "prox", "svd"})

    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    sigma: float = 0.2

    def __post_init__(self) -> None:
        self.check_sigma()

    @override
    def A(self, x: Tensor) -> Tensor:
        return x

    @override
    def At(self, y: Tensor) -> Tensor:
        return y

    @override
    def spectrum(self, like: Tensor) -> Spectrum:
        return Pixels(torch.ones(self.shape[1:], dtype=torch.float64, device=like.device))
