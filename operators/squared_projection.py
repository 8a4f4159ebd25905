"""Squares of random projections: phase retrieval for images of a few values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class SquaredProjection(Operator):
    """Square weighted sums of all values: ``A x = (M x)^2``, so the signs of ``M x`` are lost.

    The entries of ``M`` are independent standard normals, the same for all images. The phase
    retrieval of BIPSDA (OJSP 2025) has five rows and images of ten values.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    rows : int, default 5
        Number of measured values.
    sigma : float, default 0.0
        Standard deviation of the noise of a square, in squared units of the image. BIPSDA has 25
        in its own units; if the value 1 of an image stands for 12 of them, that is ``25 / 144``.
    seed : int, default 0
        Seed of ``M``.

    Raises
    ------
    ValueError
        If ``rows`` is not positive, or ``sigma`` is negative.

    Notes
    -----
    An image and its negative have the same measurement.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    rows: int = 5
    sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"{self.rows} rows measure nothing; give 1 or more")
        self.check_sigma()

    @override
    def A(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ self._weights(x).T).square().to(x.dtype)

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the smallest image whose weighted sums are the positive roots of ``y``."""
        roots = y.double().clamp_min(0).sqrt()
        image = roots @ torch.linalg.pinv(self._weights(y)).T
        return image.to(y.dtype).unflatten(1, self.shape)

    def _weights(self, like: Tensor) -> Tensor:
        return _normal(self.rows, math.prod(self.shape), self.seed, like.device)


@cache
def _normal(rows: int, values: int, seed: int, device: torch.device) -> Tensor:
    # drawn on the CPU, in float32 as in the released code
    entries = torch.randn(rows, values, generator=torch.Generator().manual_seed(seed))
    return entries.double().to(device)
