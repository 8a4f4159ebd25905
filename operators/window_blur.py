"""Blurs by a window that is a product of one window for the rows and one for the columns."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import check_rcond
from posterior_bench.operators.borders import blur_line, check_border
from posterior_bench.operators.separable import Separable


class WindowBlur(Separable):
    """Blur the rows and the columns of images; the base class of separable blurs.

    A subclass is a frozen dataclass, and implements :meth:`weights`.

    Attributes
    ----------
    kernel : int
        Side of the window in pixels, odd.
    border : str
        What lies beyond the image: ``reflect``, ``circular`` or ``zero``.
    """

    kernel: int
    border: str

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"kernel={self.kernel} has no central pixel; give an odd number of pixels"
            )
        check_border(self.border)
        self.check_sigma()
        check_rcond(self.rcond)

    def weights(self, axis: int) -> Tensor:
        """Return the window along one axis.

        Parameters
        ----------
        axis : int
            0 for the height, 1 for the width.

        Returns
        -------
        Tensor
            Weights with sum 1, an odd number of them, float64.
        """
        raise NotImplementedError

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the adjoint of ``y``: the truncated pseudo-inverse has ripples at edges."""
        return self.At(y)

    @override
    def line(self, size: int, axis: int) -> Tensor:
        return blur_line(self.weights(axis), size, self.border)
