"""A network that maps images to images, run on overlapping tiles.

Where a gradient is taken, every tile keeps its input alone and is computed again for the gradient
(Chen et al. 2016). So memory is that of one tile, with gradients too. The tiled decoding of
diffusers keeps what all tiles need, which is more than the whole image needs.

Tiles are not exact. A normalisation takes its mean and variance from a tile and not from the image,
and an attention looks at its tile alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def starts(length: int, tile: int) -> list[int]:
    """Return where tiles of ``tile`` positions begin, evenly spread over ``length`` positions.

    Neighbours overlap by at least a quarter of a tile.
    """
    if length <= tile:
        return [0]
    overlap = tile // 4
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(Fraction(i * (length - tile), count - 1)) for i in range(count)]


def weights(length: int, tile: int, factor: int) -> list[Tensor]:
    """Return the weights of the tiles along one axis; at every position they add up to 1.

    Where two tiles overlap, the weight goes over from one to the other in a straight line.

    Parameters
    ----------
    length, tile : int
        Positions of the axis and of a tile.
    factor : int
        How many positions of the output one of these makes.

    Returns
    -------
    list of Tensor
        One float32 vector per tile, ``factor`` times as long as a tile.
    """
    begins, tile = starts(length, tile), min(length, tile)
    ramps = []
    for i, begin in enumerate(begins):
        ramp = torch.ones(tile * factor, dtype=torch.float64)
        if i:
            over = (begins[i - 1] + tile - begin) * factor
            ramp[:over] *= _line(over)
        if i + 1 < len(begins):
            over = (begin + tile - begins[i + 1]) * factor
            ramp[-over:] *= _line(over).flip(0)
        ramps.append(ramp)
    total = torch.zeros(length * factor, dtype=torch.float64)
    for begin, ramp in zip(begins, ramps, strict=True):
        total[begin * factor : begin * factor + len(ramp)] += ramp
    return [
        (ramp / total[begin * factor : begin * factor + len(ramp)]).float()
        for begin, ramp in zip(begins, ramps, strict=True)
    ]


def _line(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, step: int = 1, factor: int = 1
) -> Tensor:
    """Apply a function to overlapping tiles, and blend their outputs.

    Parameters
    ----------
    function : Callable[[Tensor], Tensor]
        Maps ``(N, C, step h, step w)`` to ``(N, c, factor h, factor w)``; it must not draw.
    x : Tensor
        Input ``(N, C, step H, step W)``.
    tile : int
        Largest ``h`` and ``w`` of a tile. An input that is no larger is not cut.
    step, factor : int, default 1
        Positions of the input and of the output for one position of a tile: 1 and 8 for a decoder
        that enlarges eight times, 8 and 1 for its encoder.

    Returns
    -------
    Tensor
        Output ``(N, c, factor H, factor W)``; differentiable in ``x`` if the function is.
    """
    height, width = (side // step for side in x.shape[-2:])
    if height <= tile and width <= tile:
        return function(x)
    rows, columns = (
        list(zip(starts(n, tile), weights(n, tile, factor), strict=True)) for n in (height, width)
    )
    h, w = min(tile, height) * step, min(tile, width) * step
    total: Tensor | None = None
    for top, down in rows:
        for left, right in columns:
            part = x[..., top * step : top * step + h, left * step : left * step + w]
            out = (down[:, None] * right).to(x.device) * _kept(function, part)
            west, north = left * factor, top * factor
            east, south = width * factor - west - len(right), height * factor - north - len(down)
            out = F.pad(out, (west, east, north, south))
            total = out if total is None else total + out
    assert total is not None
    return total


def _kept(function: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and part.requires_grad):
        return function(part)
    out: Tensor = checkpoint(function, part, use_reentrant=False, preserve_rng_state=False)
    return out
