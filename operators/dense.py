"""Linear operators given by one matrix, which all images share."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Spectrum


class Matrix(NamedTuple):
    """``G`` ``(M, d)`` and ``G = U diag(S) V``, where ``V`` is square; float64."""

    G: Tensor
    U: Tensor
    S: Tensor
    V: Tensor


class MatrixSpectrum(Spectrum):
    """The spectrum of a matrix; coordinates are the rows of ``V``, in the places of pixels.

    Parameters
    ----------
    matrix : Matrix
        The matrix and its decomposition.
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image.
    """

    def __init__(self, matrix: Matrix, shape: tuple[int, int, int]) -> None:
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


class MatrixOperator(Operator):
    """Multiply every image, as a vector in reading order, by one matrix.

    A measurement is ``(N, M)``. Products are formed in float64. A subclass is a frozen dataclass
    with the fields ``shape`` and ``sigma``, and implements :meth:`matrix`.

    Attributes
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"linear", "pinv", "prox", "svd"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]

    def matrix(self, like: Tensor) -> Matrix:
        """Return the matrix on the device of ``like``, decomposed."""
        raise NotImplementedError

    @override
    def A(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ self.matrix(x).G.T).to(x.dtype)

    @override
    def At(self, y: Tensor) -> Tensor:
        return (y.double() @ self.matrix(y).G).to(y.dtype).unflatten(1, self.shape)

    @override
    def spectrum(self, like: Tensor) -> Spectrum:
        return MatrixSpectrum(self.matrix(like), self.shape)
