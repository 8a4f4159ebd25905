"""Draw CoModGAN masks: many boxes and brush strokes, until the hole has the requested size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.rejection import check_range, until_within
from posterior_bench.masks.strokes import Brush, Canvas, check_scale

_BRUSH = Brush(segments=(4, 17), thickness=(12, 47))


@dataclass(frozen=True)
class CoMod(MaskGenerator):
    """Random boxes and brush strokes of CoModGAN.

    The generator of Zhao et al. (CoModGAN, ICLR 2021), which VIPaint uses for its random masks.

    Parameters
    ----------
    low : float, default 0.4
        Lower limit of the hidden fraction, excluded. VIPaint's paper says 0.4, its released
        configuration 0.3.
    high : float, default 0.8
        Upper limit of the hidden fraction, excluded. VIPaint's paper says 0.8, its released
        configuration 0.7.
    scale : str, default 'proportional'
        ``proportional`` scales the mask of a 256-pixel image to the size of the image. ``native``
        keeps boxes relative to the image and stroke widths at 12 to 47 pixels at every size, as
        released.
    strokes : bool, default True
        False draws boxes only, like the generator that VIPaint's released script imports.

    Raises
    ------
    ValueError
        For an impossible range, an unknown scale, and if no mask within the range is found.
    """

    low: float = 0.4
    high: float = 0.8
    scale: str = "proportional"
    strokes: bool = True

    def __post_init__(self) -> None:
        check_range(self.low, self.high)
        check_scale(self.scale)

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        return ~until_within(lambda: self.draw(rng, height, width), self.low, self.high)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        """Draw one hole of any size.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        height : int
            Height of the image in pixels.
        width : int
            Width of the image in pixels.

        Returns
        -------
        NDArray[bool]
            The hole, ``(height, width)``; True = hidden.
        """
        canvas = Canvas(height, width, self.scale)
        amount = round(min(self.low + self.high, 1.0), 9)  # 0.7 + 0.2 must count as 0.9
        _boxes(rng, canvas, math.floor(10 * amount), canvas.span_x // 2, canvas.span_y // 2)
        _boxes(rng, canvas, math.floor(5 * amount), canvas.span_x, canvas.span_y)
        if not self.strokes:
            return canvas.hole
        return canvas.hole | _strokes(
            rng, Canvas(height, width, self.scale), math.floor(20 * amount)
        )


def _boxes(
    rng: np.random.Generator, canvas: Canvas, fewer_than: int, narrower_than: int, lower_than: int
) -> None:
    """Draw boxes that may lie up to half outside of the canvas."""
    for _ in range(rng.integers(max(fewer_than, 1))):
        width, height = int(rng.integers(narrower_than)), int(rng.integers(lower_than))
        x = int(rng.integers(-(width // 2), canvas.span_x - width + width // 2))
        y = int(rng.integers(-(height // 2), canvas.span_y - height + height // 2))
        canvas.box(x, y, width, height)


def _strokes(rng: np.random.Generator, canvas: Canvas, fewer_than: int) -> NDArray[np.bool_]:
    """Draw strokes, which all run to the right, and mirror the whole drawing at random."""
    for _ in range(rng.integers(max(fewer_than, 1))):
        _BRUSH.stroke(rng, canvas)
    upside_down, back_to_front = rng.random(2) < 0.5
    return canvas.hole[:: -1 if upside_down else 1, :: -1 if back_to_front else 1]
