"""LaMa masks: thin, medium and thick strokes, or boxes, redrawn until they hide at most half of the
image.
"""

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
    """Ranges of the strokes; both bounds are included. Widths and lengths are those of a single
    segment.
    """

    count: tuple[int, int]
    width: tuple[int, int]
    length: tuple[int, int]


@dataclass(frozen=True)
class Boxes:
    """Ranges of the boxes; both bounds are included. ``margin``: the least distance to the
    border.
    """

    count: tuple[int, int]
    side: tuple[int, int]
    margin: int


# The generator adds 1 to the largest number of strokes and then includes it; 5 and 10 are its least
# width and length.
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
    """The test masks of LaMa (Suvorov et al., WACV 2022), which LatentPaint (Corneanu et al., WACV
    2024) reports on.

    Strokes of one to five segments, or, for medium and thick masks in 3 of 13 draws, a few boxes.
    "Thin", "medium" and "thick" name the strokes, not the hole: at 256 pixels the three hide 29, 24
    and 27 % on average.

    Parameters
    ----------
    width : str, default 'medium'
        ``thin``, ``medium`` or ``thick``.
    resolution : int | None, default None
        Whose settings count, those of ``256`` or of ``512`` pixels, which are not each other's
        double; null takes 512 from images of 512 x 512 pixels on, and else 256.
    scale : str, default 'proportional'
        ``proportional`` draws the mask of an image of that resolution at the size asked for,
        ``native`` counts widths and lengths in pixels whatever the size, which hides most of a
        small image.

    Notes
    -----
    The smallest masks of 28 or 32 pixels have strokes thinner than a pixel, of which specks are
    left. Raises ValueError for unknown names, and where the boxes or no mask that hides at most
    half fit into the image.
    """

    width: str = "medium"
    resolution: int | None = None
    scale: str = "proportional"

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise ValueError(f"unknown width '{self.width}'; valid: {', '.join(WIDTHS)}")
        if self.resolution not in (None, *RESOLUTIONS):
            raise ValueError(
                f"resolution={self.resolution}: LaMa has settings for 256 and 512; null chooses by "
                f"size"
            )
        check_scale(self.scale)

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        return ~until_within(lambda: self.draw(rng, height, width), 0.0, _LARGEST_HOLE)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        """One hole of any size, bool ``(height, width)``, True = hidden."""
        resolution = self.resolution or (512 if height * width >= 512 * 512 else 256)
        canvas = Canvas(height, width, self.scale, resolution)
        strokes, boxes = _SETTINGS[self.width, resolution]
        if boxes is not None and rng.random() < _BOX_SHARE:
            _draw_boxes(rng, canvas, boxes)
        else:
            _draw_strokes(rng, canvas, strokes)
        return canvas.hole


def _draw_strokes(rng: np.random.Generator, canvas: Canvas, strokes: Strokes) -> None:
    """Strokes from uniform starts; every other one turns the other way. Each segment has its own
    width.
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
            canvas.polyline(
                [start, end], thickness + 1
            )  # a line of OpenCV is that much wider than asked for
            start = end


def _draw_boxes(rng: np.random.Generator, canvas: Canvas, boxes: Boxes) -> None:
    """Boxes that lie wholly inside of the margin."""
    room_x, room_y = canvas.span_x - 2 * boxes.margin, canvas.span_y - 2 * boxes.margin
    least, most = boxes.side
    if min(room_x, room_y) < least:
        raise ValueError(
            f"boxes of {least} to {most} pixels with a margin of {boxes.margin} do not fit into "
            f"{canvas.span_y} x "
            f"{canvas.span_x} pixels; use scale=proportional"
        )
    for _ in range(_integer(rng, boxes.count)):
        width, height = (
            _integer(rng, (least, min(most, room_x))),
            _integer(rng, (least, min(most, room_y))),
        )
        x = boxes.margin + int(rng.integers(room_x - width + 1))
        y = boxes.margin + int(rng.integers(room_y - height + 1))
        canvas.box(x, y, width, height)


def _integer(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    """A whole number between ``bounds``, both included."""
    return int(rng.integers(bounds[0], bounds[1] + 1))
