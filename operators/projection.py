"""Random projections: every measured value is a weighted sum of all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Spectrum


class _Matrix(NamedTuple):
    """``G`` ``(M, d)`` and ``G = U diag(S) V``, where ``V`` is square; float64."""

    G: Tensor
    U: Tensor
    S: Tensor
    V: Tensor


class _Weights(Spectrum):
    """The spectrum of a matrix; coordinates are the rows of ``V``, in the places of pixels."""

    def __init__(self, matrix: _Matrix, shape: tuple[int, int, int]) -> None:
        self.U, self.V, self.shape = matrix.U, matrix.V, shape
        super().__init__(self._grid(matrix.S[None]))

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return self._grid(x.flatten(1).double() @ self.V.T).to(x.dtype)

    @override
    def image(self, coordinates: Tensor) -> Tensor:
        return self._grid(coordinates.flatten(1).double() @ self.V).to(coordinates.dtype)

    @override
    def measured(self, y: Tensor) -> Tensor:
        return self._grid(y.double() @ self.U).to(y.dtype)

    def _grid(self, flat: Tensor) -> Tensor:
        missing = len(self.V) - flat.shape[1]
        return nn.functional.pad(flat, (0, missing)).unflatten(1, self.shape)


@dataclass(frozen=True)
class Projection(Operator):
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

    caps: ClassVar[frozenset[str]] = frozenset({"linear", "pinv", "prox", "svd"})
    takes_shape: ClassVar[bool] = True

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
    def A(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ self._matrix(x).G.T).to(x.dtype)

    @override
    def At(self, y: Tensor) -> Tensor:
        return self._image(y.double() @ self._matrix(y).G, y)

    @override
    def spectrum(self, like: Tensor) -> Spectrum:
        return _Weights(self._matrix(like), self.shape)

    def _matrix(self, like: Tensor) -> _Matrix:
        values = math.prod(self.shape)
        count = max(1, round(self.rows * values)) if self.rows < 1 else int(self.rows)
        return _matrix(count, values, self.seed, like.device)

    def _image(self, flat: Tensor, like: Tensor) -> Tensor:
        return flat.to(like.dtype).unflatten(1, self.shape)


@cache
def _matrix(rows: int, values: int, seed: int, device: torch.device) -> _Matrix:
    # drawn and decomposed on the CPU: other devices have other random numbers and other signs
    entries = torch.randn(
        rows, values, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    G = entries / math.sqrt(values)
    return _Matrix(*(part.to(device) for part in (G, *torch.linalg.svd(G))))
