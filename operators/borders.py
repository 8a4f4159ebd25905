"""Lines of pixels and what lies beyond their ends."""

from __future__ import annotations

import torch
from torch import Tensor


def _reflected(places: Tensor, size: int) -> Tensor:
    period = 2 * (size - 1)
    folded = places.remainder(max(period, 1))
    return torch.minimum(folded, period - folded)


def _symmetric(places: Tensor, size: int) -> Tensor:
    folded = places.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)


def _circular(places: Tensor, size: int) -> Tensor:
    return places.remainder(size)


def _nearest(places: Tensor, size: int) -> Tensor:
    return places.clamp(0, size - 1)


_PIXELS = {
    "reflect": _reflected,
    "symmetric": _symmetric,
    "circular": _circular,
    "zero": _nearest,  # with the weight 0
}
BLUR_BORDERS = ("reflect", "circular", "zero")
"""The borders that a blur can have."""


def check_border(border: str) -> None:
    """Check that a blur can have a border.

    Parameters
    ----------
    border : str
        Name of the border.

    Raises
    ------
    ValueError
        If it is none of :data:`BLUR_BORDERS`.
    """
    if border not in BLUR_BORDERS:
        raise ValueError(f"unknown border '{border}'. Valid: {', '.join(BLUR_BORDERS)}")


def weighted(places: Tensor, weights: Tensor, size: int, border: str) -> Tensor:
    """Return the matrix that forms weighted sums of the pixels of a line.

    Parameters
    ----------
    places : Tensor
        Int64 ``(m, k)``: the positions that each of the ``m`` rows reads, also far outside the
        line of positions 0 to ``size - 1``.
    weights : Tensor
        Weights ``(k,)``, the same for every row. Where a row reads a pixel twice, its weights add
        up.
    size : int
        Number of pixels of the line.
    border : str
        Which pixel stands at a position outside: ``reflect``, mirrored at the border pixels, so -1
        is 1; ``symmetric``, mirrored at the outer edges, so -1 is 0; ``circular``, the line
        repeated, so -1 is ``size - 1``; ``zero``, none.

    Returns
    -------
    Tensor
        The matrix ``(m, size)``, float64.
    """
    shares = weights.double().expand(places.shape)
    if border == "zero":
        shares = shares * ((places >= 0) & (places < size))
    matrix = torch.zeros(len(places), size, dtype=torch.float64)
    return matrix.scatter_add_(1, _PIXELS[border](places, size), shares)


def blur_line(weights: Tensor, size: int, border: str) -> Tensor:
    """Return the matrix that blurs a line of pixels with a centred window.

    Parameters
    ----------
    weights : Tensor
        The window, an odd number of weights.
    size : int
        Number of pixels of the line.
    border : str
        What lies beyond the ends, as in :func:`weighted`.

    Returns
    -------
    Tensor
        The matrix ``(size, size)``, float64.
    """
    radius = len(weights) // 2
    window = torch.arange(-radius, radius + 1)
    return weighted(torch.arange(size)[:, None] + window, weights, size, border)
