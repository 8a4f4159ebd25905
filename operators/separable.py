"""Linear operators that measure rows and columns alike, so that two small matrices say all about
them.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from posterior_bench.operators.base import Operator


class _Factors(NamedTuple):
    """The matrix ``M`` ``(m, n)`` of a line of pixels and its thin decomposition ``M = U diag(S)
    V``; float64.
    """

    M: Tensor
    U: Tensor
    S: Tensor
    V: Tensor


class Separable(Operator):
    """``A x = R x C^T`` for every channel, with a matrix ``R`` for the columns of pixels and ``C``
    for the rows.

    The singular values of ``A`` are the products of those of ``R`` and ``C``, so the proximal step
    is exact. Products are formed in float64. Subclasses are frozen dataclasses with the fields
    ``shape`` ``(C, H, W)`` and ``sigma``, and say what :meth:`line` is.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"linear", "prox", "svd"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]

    def line(self, size: int) -> Tensor:
        """The matrix ``(m, size)`` that measures one line of ``size`` pixels, float64 on the
        CPU.
        """
        raise NotImplementedError

    def A(self, x: Tensor) -> Tensor:
        rows, columns = self._factors(x)
        return (rows.M @ x.double() @ columns.M.T).to(x.dtype)

    def At(self, y: Tensor) -> Tensor:
        rows, columns = self._factors(y)
        return (rows.M.T @ y.double() @ columns.M).to(y.dtype)

    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """``x + A^T (A A^T + rho)^-1 (y - A x)``, by the singular values."""
        rows, columns = self._factors(x)
        values = rows.S[:, None] * columns.S
        weight = rho.double() if isinstance(rho, Tensor) else rho
        residual = y.double() - rows.M @ x.double() @ columns.M.T
        spectrum = rows.U.T @ residual @ columns.U * values / (values**2 + weight)
        return x + (rows.V.T @ spectrum @ columns.V).to(x.dtype)

    def _factors(self, like: Tensor) -> tuple[_Factors, _Factors]:
        _, height, width = self.shape
        return _factors(self, height, like.device), _factors(self, width, like.device)


@cache
def _factors(operator: Separable, size: int, device: torch.device) -> _Factors:
    # decomposed on the CPU: other devices have other signs
    matrix = operator.line(size)
    return _Factors(
        *(part.to(device) for part in (matrix, *torch.linalg.svd(matrix, full_matrices=False)))
    )


def weighted(pixels: Tensor, weights: Tensor, size: int) -> Tensor:
    """The matrix ``(m, size)`` whose row ``i`` has ``weights`` ``(k,)`` at ``pixels[i]`` ``(k,)``;
    repeats add up.
    """
    matrix = torch.zeros(len(pixels), size, dtype=torch.float64)
    return matrix.scatter_add_(1, pixels, weights.double().expand(pixels.shape))


def reflected(index: Tensor, size: int) -> Tensor:
    """Places of a line mirrored at its border pixels, as often as it takes: -1 is 1 (``reflect`` of
    numpy).
    """
    period = 2 * (size - 1)
    folded = index.remainder(max(period, 1))
    return torch.minimum(folded, period - folded)


def mirrored(index: Tensor, size: int) -> Tensor:
    """Places of a line mirrored at its outer edges, as often as it takes: -1 is 0 (``symmetric`` of
    numpy).
    """
    folded = index.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)
