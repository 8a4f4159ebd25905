"""Linear systems of a batch, solved row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def solve_rows(
    multiply: Callable[[Tensor], Tensor], right: Tensor, tolerance: float, iterations: int
) -> Tensor:
    """Solve ``M x = b`` by conjugate gradients, with a symmetric positive definite ``M``.

    Every row has its own step lengths and stops by itself, so a row does not depend on the other
    rows of its batch.

    Parameters
    ----------
    multiply : Callable[[Tensor], Tensor]
        ``M``, which maps ``(N, ...)`` to ``(N, ...)`` row by row.
    right : Tensor
        ``b``, ``(N, ...)``.
    tolerance : float
        A row stops when ``|b - M x|`` is at most ``tolerance`` times ``|b|``.
    iterations : int
        The largest number of iterations.

    Returns
    -------
    Tensor
        The solutions, shaped like ``right``. A row with a NaN is NaN.
    """
    x, residual, direction = 0 * right, right, right
    size = _dot(residual, residual)
    goal = tolerance**2 * size
    for _ in range(iterations):
        active = size > goal
        if not active.any():
            break
        image = multiply(direction)
        step = size / _dot(direction, image)
        x = torch.where(active, x + step * direction, x)
        residual = torch.where(active, residual - step * image, residual)
        before, size = size, _dot(residual, residual)
        direction = residual + size / before * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each row, ``(N, 1, ...)``."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)
