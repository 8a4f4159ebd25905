"""Draw LaMa masks: thin, medium or thick strokes, or boxes, that hide at most half of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.rejection import until_within
from posterior_bench.masks.strokes import Canvas, check_scale


@dataclass(frozen=True)
class Strokes:
    """Ranges of the strokes; both limits are included.

    Widths and lengths are those of a single segment, in reference units.
    """

    count: tuple[int, int]
    width: tuple[int, int]
    length: tuple[int, int]


@dataclass(frozen=True)
class Boxes:
    """Ranges of the boxes; both limits are included.

    ``margin`` is the least distance to the border, in reference units.
    """

    count: tuple[int, int]
    side: tuple[int, int]
    margin: int


# LaMa's generator adds 1 to the largest number of strokes and then includes that number; 5 and 10
# are its least width and length.
_SETTINGS: dict[tuple[str, int], tuple[Strokes, Boxes | None]] = {
    ("thin", 256): (Strokes((4, 51), (5, 14), (10, 49)), None),
    ("medium", 256): (Strokes((4, 6), (5, 54), (10, 109)), Boxes((1, 5), (10, 50), 0)),
    ("thick", 256): (Strokes((1, 6), (5, 104), (10, 209)), Boxes((1, 3), (30, 150), 10)),
    ("thin", 512): (Strokes((4, 71), (5, 24), (10, 109)), None),
    ("medium", 512): (Strokes((4, 11), (5, 104), (10, 209)), Boxes((1, 5), (30, 150), 0)),
    ("thick", 512): (Strokes((1, 6), (5, 254), (10, 459)), Boxes((1, 4), (30, 300), 10)),
}
WIDTHS = ("thin", "medium", "thick")
RESOLUTIONS = (256, 512)
_BOX_SHARE = 0.3 / 1.3  # strokes and boxes are weighted 1 : 0.3
_LARGEST_HOLE = 0.5


@dataclass(frozen=True)
class LaMa(MaskGenerator):
    """Test masks of LaMa, which LatentPaint reports on.

    LaMa is Suvorov et al. (WACV 2022), LatentPaint is Corneanu et al. (WACV 2024). A mask consists
    of strokes of one to five segments or, for medium and thick masks in 3 of 13 draws, of a few
    boxes. "Thin", "medium" and "thick" name the strokes, not the hole: at 256 pixels the three hide
    29, 24 and 27 % of the image on average, and at most half.

    Parameters
    ----------
    width : str, default 'medium'
        ``thin``, ``medium`` or ``thick``.
    resolution : int | None, default None
        Use LaMa's settings for ``256`` or for ``512`` pixels; these are not proportional to each
        other. None takes 512 for images of at least 512 x 512 pixels, otherwise 256.
    scale : str, default 'proportional'
        ``proportional`` scales the mask of an image of that resolution to the size of the image.
        ``native`` counts widths and lengths in pixels at every size, which hides most of a small
        image.

    Raises
    ------
    ValueError
        For an unknown name, if the boxes do not fit into the image, and if no mask that hides at
        most half of the image is found.

    Notes
    -----
    Masks of 28 or 32 pixels have strokes thinner than a pixel, of which single pixels remain.
    """

    width: str = "medium"
    resolution: int | None = None
    scale: str = "proportional"

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise ValueError(f"unknown width '{self.width}'; valid: {', '.join(WIDTHS)}")
        if self.resolution not in (None, *RESOLUTIONS):
            raise ValueError(
                f"resolution={self.resolution}: LaMa has settings for 256 and 512; null "
                "chooses by the size of the image"
            )
        check_scale(self.scale)

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        return ~until_within(lambda: self.draw(rng, height, width), 0.0, _LARGEST_HOLE)

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
        resolution = self.resolution or (512 if height * width >= 512 * 512 else 256)
        canvas = Canvas(height, width, self.scale, resolution)
        strokes, boxes = _SETTINGS[self.width, resolution]
        if boxes is not None and rng.random() < _BOX_SHARE:
            _draw_boxes(rng, canvas, boxes)
        else:
            _draw_strokes(rng, canvas, strokes)
        return canvas.hole


def _draw_strokes(rng: np.random.Generator, canvas: Canvas, strokes: Strokes) -> None:
    """Draw strokes from uniform starts; every other one turns the other way.

    Each segment has its own width.
    """
    for index in range(_integer(rng, strokes.count)):
        start = int(rng.integers(canvas.span_x)), int(rng.integers(canvas.span_y))
        for _ in range(_integer(rng, (1, 5))):
            angle = 0.01 + int(rng.integers(4))
            angle = 2 * math.pi - angle if index % 2 == 0 else angle
            length, thickness = _integer(rng, strokes.length), _integer(rng, strokes.width)
            end = (
                int(min(max(start[0] + length * math.sin(angle), 0), canvas.span_x)),
                int(min(max(start[1] + length * math.cos(angle), 0), canvas.span_y)),
            )
            # OpenCV draws a line one pixel wider than its argument says
            canvas.polyline([start, end], thickness + 1)
            start = end


def _draw_boxes(rng: np.random.Generator, canvas: Canvas, boxes: Boxes) -> None:
    """Draw boxes that lie wholly within the margin."""
    free_x, free_y = canvas.span_x - 2 * boxes.margin, canvas.span_y - 2 * boxes.margin
    least, most = boxes.side
    if min(free_x, free_y) < least:
        raise ValueError(
            f"boxes of {least} to {most} pixels with a margin of {boxes.margin} do not fit into "
            f"{canvas.span_y} x {canvas.span_x} pixels; use scale=proportional"
        )
    for _ in range(_integer(rng, boxes.count)):
        width = _integer(rng, (least, min(most, free_x)))
        height = _integer(rng, (least, min(most, free_y)))
        x = boxes.margin + int(rng.integers(free_x - width + 1))
        y = boxes.margin + int(rng.integers(free_y - height + 1))
        canvas.box(x, y, width, height)


def _integer(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    """Draw a whole number between ``bounds``, both included."""
    return int(rng.integers(bounds[0], bounds[1] + 1))
