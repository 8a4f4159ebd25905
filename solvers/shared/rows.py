"""Arithmetic that never mixes the rows of a batch."""

from __future__ import annotations

from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of every row.

    Parameters
    ----------
    a, b : Tensor
        ``(N, ...)``, of the same shape.

    Returns
    -------
    Tensor
        Inner products ``(N,)``.
    """
    return (a * b).flatten(1).sum(1)


def column(value: Tensor, like: Tensor) -> Tensor:
    """Reshape one number per row, so that it multiplies the rows of a batch.

    Parameters
    ----------
    value : Tensor
        Numbers ``(N,)``.
    like : Tensor
        The batch, ``(N, ...)``.

    Returns
    -------
    Tensor
        The numbers, ``(N, 1, ...)``.
    """
    return value.view(-1, *[1] * (like.ndim - 1))
