"""Observe every other square of a checkerboard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator

FIRST = ("observed", "hidden")


@dataclass(frozen=True)
class Checkerboard(MaskGenerator):
    """Squares of a checkerboard, observed and hidden in turn.

    The checkerboard of LanPaintBench, the benchmark of LanPaint, has 16 x 16 squares of 16 pixels
    in an image of 256 x 256 pixels.

    Parameters
    ----------
    squares : int, default 16
        Number of squares along each side of the image. Where the side is no multiple of it, squares
        differ by at most one pixel.
    first : str, default 'observed'
        Whether the square in the upper left corner is ``observed`` or ``hidden``.

    Raises
    ------
    ValueError
        For fewer than 2 squares, an unknown name, and an image with fewer pixels than squares along
        a side.
    """

    squares: int = 16
    first: str = "observed"

    def __post_init__(self) -> None:
        if self.squares < 2:
            raise ValueError(f"squares={self.squares}: give at least 2 along a side")
        if self.first not in FIRST:
            raise ValueError(f"unknown first '{self.first}'; valid: {', '.join(FIRST)}")

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        if min(height, width) < self.squares:
            raise ValueError(
                f"{self.squares} squares do not fit along the sides of {height} x {width} pixels; "
                "give fewer squares"
            )
        rows = np.arange(height)[:, None] * self.squares // height
        columns = np.arange(width)[None, :] * self.squares // width
        even: NDArray[np.bool_] = (rows + columns) % 2 == 0
        return even if self.first == "observed" else ~even
