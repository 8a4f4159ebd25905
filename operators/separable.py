"""Linear operators that are a product of one matrix for the rows and one for the columns."""

from __future__ import annotations

from functools import cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Spectrum


class _Factors(NamedTuple):
    """The matrix ``M`` ``(m, n)`` of a line of pixels and ``M = U diag(S) V``; float64.

    ``V`` is square ``(n, n)``. ``U`` ``(m, n)`` and ``S`` ``(n,)`` have zeros where ``M`` is blind.
    """

    M: Tensor
    U: Tensor
    S: Tensor
    V: Tensor


class _Products(Spectrum):
    """The spectrum of ``R x C^T``: products of two values, the same for every channel."""

    def __init__(self, rows: _Factors, columns: _Factors, rcond: float) -> None:
        self.rows, self.columns = rows, columns
        super().__init__(rows.S[:, None] * columns.S, rcond)

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return (self.rows.V @ x.double() @ self.columns.V.T).to(x.dtype)

    @override
    def image(self, coordinates: Tensor) -> Tensor:
        return (self.rows.V.T @ coordinates.double() @ self.columns.V).to(coordinates.dtype)

    @override
    def measured(self, y: Tensor) -> Tensor:
        return (self.rows.U.T @ y.double() @ self.columns.U).to(y.dtype)


class Separable(Operator):
    """Measure each channel as ``A x = R x C^T``; the base class of separable operators.

    ``R`` acts on the columns of pixels and ``C`` on the rows. The singular values of ``A`` are the
    products of the singular values of ``R`` and ``C``, so two small decompositions are enough.
    Products are formed in float64. A subclass is a frozen dataclass with the fields ``shape`` and
    ``sigma``, and implements :meth:`line`.

    Attributes
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image.
    rcond : float
        Singular values of ``A`` up to ``rcond`` times the largest one are truncated.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"linear", "pinv", "prox", "svd"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    rcond: float = 0.0

    def check_rcond(self) -> None:
        """Check that ``rcond`` is a share of the largest singular value.

        Raises
        ------
        ValueError
            If ``rcond`` is outside [0, 1).
        """
        if not 0 <= self.rcond < 1:
            raise ValueError(
                f"rcond {self.rcond} is outside [0, 1); give the share of the largest singular "
                "value below which values are truncated"
            )

    def line(self, size: int) -> Tensor:
        """Return the matrix that measures one line of pixels.

        Parameters
        ----------
        size : int
            Number of pixels of the line: the height or the width of an image.

        Returns
        -------
        Tensor
            A matrix ``(m, size)``, float64, on the CPU.
        """
        raise NotImplementedError

    @override
    def A(self, x: Tensor) -> Tensor:
        rows, columns = self._factors(x)
        return (rows.M @ x.double() @ columns.M.T).to(x.dtype)

    @override
    def At(self, y: Tensor) -> Tensor:
        rows, columns = self._factors(y)
        return (rows.M.T @ y.double() @ columns.M).to(y.dtype)

    @override
    def spectrum(self, like: Tensor) -> Spectrum:
        return _Products(*self._factors(like), self.rcond)

    def _factors(self, like: Tensor) -> tuple[_Factors, _Factors]:
        _, height, width = self.shape
        return _factors(self, height, like.device), _factors(self, width, like.device)


@cache
def _factors(operator: Separable, size: int, device: torch.device) -> _Factors:
    # decomposed on the CPU: other devices have other signs
    matrix = operator.line(size)
    U, S, V = torch.linalg.svd(matrix)
    U = nn.functional.pad(U[:, : len(S)], (0, size - len(S)))
    S = nn.functional.pad(S, (0, size - len(S)))
    return _Factors(*(part.to(device) for part in (matrix, U, S, V)))


def weighted(pixels: Tensor, weights: Tensor, size: int) -> Tensor:
    """Return the matrix that forms weighted sums of the pixels of a line.

    Parameters
    ----------
    pixels : Tensor
        Int64 ``(m, k)``: the pixels that each of the ``m`` rows reads, in 0 to ``size - 1``.
    weights : Tensor
        Weights ``(k,)``, the same for every row. Where a row names a pixel twice, its weights add
        up.
    size : int
        Number of pixels of the line.

    Returns
    -------
    Tensor
        The matrix ``(m, size)``, float64.
    """
    matrix = torch.zeros(len(pixels), size, dtype=torch.float64)
    return matrix.scatter_add_(1, pixels, weights.double().expand(pixels.shape))


def reflected(index: Tensor, size: int) -> Tensor:
    """Map positions beyond a line to pixels, mirrored at the border pixels: -1 becomes 1.

    Parameters
    ----------
    index : Tensor
        Integer positions of any shape, also far outside the line.
    size : int
        Number of pixels of the line.

    Returns
    -------
    Tensor
        Positions in 0 to ``size - 1``, as numpy's padding mode ``reflect`` gives them.
    """
    period = 2 * (size - 1)
    folded = index.remainder(max(period, 1))
    return torch.minimum(folded, period - folded)


def mirrored(index: Tensor, size: int) -> Tensor:
    """Map positions beyond a line to pixels, mirrored at the outer edges: -1 becomes 0.

    Parameters
    ----------
    index : Tensor
        Integer positions of any shape, also far outside the line.
    size : int
        Number of pixels of the line.

    Returns
    -------
    Tensor
        Positions in 0 to ``size - 1``, as numpy's padding mode ``symmetric`` gives them.
    """
    folded = index.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)
