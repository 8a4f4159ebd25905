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

    def line(self, size: int, axis: int) -> Tensor:
        """Return the matrix that measures one line of pixels.

        Parameters
        ----------
        size : int
            Number of pixels of the line: the height or the width of an image.
        axis : int
            0 for a line along the height, 1 for one along the width.

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
        return _factors(self, 0, like.device), _factors(self, 1, like.device)


@cache
def _factors(operator: Separable, axis: int, device: torch.device) -> _Factors:
    # decomposed on the CPU: other devices have other signs
    size = operator.shape[1 + axis]
    matrix = operator.line(size, axis)
    U, S, V = torch.linalg.svd(matrix)
    U = nn.functional.pad(U[:, : len(S)], (0, size - len(S)))
    S = nn.functional.pad(S, (0, size - len(S)))
    return _Factors(*(part.to(device) for part in (matrix, U, S, V)))
