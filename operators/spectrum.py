"""The singular value decomposition of a linear operator, without its matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override


class Spectrum(ABC):
    """The decomposition ``A = U S V^T``, where coordinates have the shape of an image.

    ``V`` is orthogonal and square, so white noise has white coordinates. ``S`` is diagonal: every
    coordinate has one singular value, and the values are not sorted. A subclass implements the
    three products.

    Parameters
    ----------
    values : Tensor
        All singular values, float64 and 0 or more; they broadcast against ``(N, C, H, W)``.
    rcond : float, default 0.0
        Values up to ``rcond`` times the largest one are truncated: :attr:`values` has 0 there.

    Attributes
    ----------
    exact : Tensor
        All singular values, as given.
    values : Tensor
        The singular values that are kept, and 0 elsewhere: where ``A`` is blind, or where the value
        is truncated.
    """

    def __init__(self, values: Tensor, rcond: float = 0.0) -> None:
        self.exact = values
        self.values = torch.where(values > rcond * values.max(), values, 0.0)

    @abstractmethod
    def coordinates(self, x: Tensor) -> Tensor:
        """Return ``V^T x``.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Coordinates ``(N, C, H, W)``.
        """

    @abstractmethod
    def image(self, coordinates: Tensor) -> Tensor:
        """Return ``V c``, the inverse of :meth:`coordinates`.

        Parameters
        ----------
        coordinates : Tensor
            Coordinates ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``.
        """

    @abstractmethod
    def measured(self, y: Tensor) -> Tensor:
        """Return ``U^T y``, each entry at the coordinate that it measures.

        Parameters
        ----------
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            Coordinates ``(N, C, H, W)``; any number where the exact value is 0.
        """

    def solution(self, y: Tensor) -> Tensor:
        """Return the coordinates of ``A^+ y``: ``U^T y`` divided by the values that are kept.

        Parameters
        ----------
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            Coordinates ``(N, C, H, W)``; 0 where the value is 0.
        """
        return (self.measured(y.double()) * reciprocal(self.values)).to(y.dtype)

    def shrunk(self, y: Tensor, rho: float | Tensor) -> Tensor:
        """Return the coordinates of ``A^T (A A^T + rho)^-1 y``; the exact values count.

        Parameters
        ----------
        y : Tensor
            A measurement, shaped like ``A(x)``.
        rho : float or Tensor
            0 or more; a tensor ``(N, 1, 1, 1)`` holds one number per row.

        Returns
        -------
        Tensor
            Coordinates ``(N, C, H, W)``; those of :meth:`solution` where ``rho`` is 0.
        """
        # a number stays on the host, where a GPU takes it from
        weight = rho.to(self.exact) if isinstance(rho, Tensor) else rho
        at_zero, positive = reciprocal(self.values), self.exact / (self.exact**2 + weight)
        if isinstance(weight, Tensor):
            factor = torch.where(weight > 0, positive, at_zero)
        else:
            factor = positive if weight > 0 else at_zero
        return (self.measured(y.double()) * factor).to(y.dtype)


class Pixels(Spectrum):
    """The spectrum of an operator that measures single pixels: every pixel is a coordinate."""

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return x

    @override
    def image(self, coordinates: Tensor) -> Tensor:
        return coordinates

    @override
    def measured(self, y: Tensor) -> Tensor:
        return y


def reciprocal(values: Tensor) -> Tensor:
    """Return ``1 / values``, and 0 where a value is 0.

    Parameters
    ----------
    values : Tensor
        Numbers, 0 or more.

    Returns
    -------
    Tensor
        The reciprocals, shaped like ``values``.
    """
    return torch.where(values > 0, 1 / values, 0.0)
