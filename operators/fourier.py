"""Fourier sampling of a signal: the real and imaginary parts of some frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.dense import Matrix, MatrixOperator


@dataclass(frozen=True)
class Fourier(MatrixOperator):
    """Measure some frequencies of an image, taken as one signal in reading order.

    The transform is real and orthonormal: first the real parts of all measured frequencies, then
    the imaginary parts of those that have one. Frequency 0 and, for a signal of even length, the
    last one have none. So all singular values are 1. The operator is that of the Lévy benchmark of
    Zach et al. (2025, arXiv 2509.12821).

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    bins : tuple[int, ...]
        Numbers of the measured frequencies, 0 to half the length of the signal, rising.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    Raises
    ------
    ValueError
        If there is no bin, a bin does not exist or the bins do not rise, or ``sigma`` is negative.
    """

    caps: ClassVar[frozenset[str]] = MatrixOperator.caps | {"projection"}

    shape: tuple[int, int, int]
    bins: tuple[int, ...]
    sigma: float = 0.0

    def __post_init__(self) -> None:
        last = math.prod(self.shape) // 2
        if not self.bins or list(self.bins) != sorted({*self.bins} & {*range(last + 1)}):
            raise ValueError(
                f"bins={list(self.bins)}: give rising numbers of frequencies, 0 to {last}"
            )
        self.check_sigma()

    @override
    def matrix(self, like: Tensor) -> Matrix:
        return _matrix(math.prod(self.shape), tuple(self.bins), like.device)


@cache
def _matrix(length: int, bins: tuple[int, ...], device: torch.device) -> Matrix:
    waves, frequencies = _waves(length)
    chosen = torch.isin(frequencies, torch.tensor(bins))
    G = waves[chosen]
    ones = torch.ones(len(G), dtype=torch.float64)
    V = torch.cat([G, waves[~chosen]])
    return Matrix(*(part.to(device) for part in (G, torch.diag(ones), ones, V)))


def _waves(length: int) -> tuple[Tensor, Tensor]:
    """Return the real orthonormal transform ``(length, length)``, and the frequency of each row."""
    k = torch.arange(length // 2 + 1)
    # whole numbers of turns are taken off first, so that the angle keeps all its digits
    angles = 2 * math.pi / length * (k[:, None] * torch.arange(length) % length).double()
    single = (k == 0) | (2 * k == length)
    weight = torch.where(single, 1.0, math.sqrt(2)).double() / math.sqrt(length)
    cosines, sines = weight[:, None] * angles.cos(), -weight[:, None] * angles.sin()
    return torch.cat([cosines, sines[~single]]), torch.cat([k, k[~single]])
