"""Random projections: every measured value is a weighted sum of all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.dense import Matrix, MatrixOperator


@dataclass(frozen=True)
class Projection(MatrixOperator):
    """Multiply every image by one random matrix: ``A x = G x``.

    The entries of ``G`` are independent ``N(0, 1/d)``, the same for all images. A measurement is
    ``(N, M)``. Its values are of the size of a pixel, so ``sigma`` means the same as for masks.
    Such matrices are used in compressed sensing and in the synthetic posteriors of Cardoso et al.
    (MCG-Diff, ICLR 2024).

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    rows : float, default 0.5
        Number ``M`` of measured values. Below 1 it is a fraction of the ``d = C H W`` values of an
        image, rounded, at least one row. From 1 on it is a whole number.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.
    seed : int, default 0
        Seed of the matrix.

    Raises
    ------
    ValueError
        If ``rows`` is not positive, is not whole from 1 on, or exceeds ``d``, or if ``sigma`` is
        negative.

    Notes
    -----
    Products are formed in float64. The decomposition is computed once per process and device.
    """

    shape: tuple[int, int, int]
    rows: float = 0.5
    sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        values = math.prod(self.shape)
        if not 0 < self.rows < math.inf or (self.rows >= 1 and self.rows != int(self.rows)):
            raise ValueError(
                f"rows={self.rows}: give a fraction between 0 and 1, or a whole number of rows"
            )
        if self.rows > values:
            raise ValueError(
                f"{int(self.rows)} rows are more than the {values} values of an image; give fewer"
            )
        self.check_sigma()

    @override
    def matrix(self, like: Tensor) -> Matrix:
        values = math.prod(self.shape)
        count = max(1, round(self.rows * values)) if self.rows < 1 else int(self.rows)
        return _matrix(count, values, self.seed, like.device)


@cache
def _matrix(rows: int, values: int, seed: int, device: torch.device) -> Matrix:
    # drawn and decomposed on the CPU: other devices have other random numbers and other signs
    entries = torch.randn(
        rows, values, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    G = entries / math.sqrt(values)
    return Matrix(*(part.to(device) for part in (G, *torch.linalg.svd(G))))
