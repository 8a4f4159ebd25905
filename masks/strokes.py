"""Draw boxes and brush strokes in closed form, independently of any drawing library.

Shapes have integer corners and vertices in *reference units*. A :class:`Canvas` knows where the
centres of the image's pixels lie in these units. A pixel is covered if its centre is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SCALES = ("native", "proportional")
REFERENCE_SIDE = 256  # the image side the stroke widths of CoModGAN and Palette were chosen for

# both generators: segments leave at an angle of 2/5 pi, plus or minus at most 2/15 pi, and every
# other one turns back
_MEAN_ANGLE = 2 * math.pi / 5
_ANGLE_RANGE = 2 * math.pi / 15


class Canvas:
    """Empty hole to draw in.

    Parameters
    ----------
    height : int
        Height in pixels.
    width : int
        Width in pixels.
    scale : str, default 'native'
        ``native``: a reference unit is a pixel. ``proportional``: the diagonal of the image has the
        length, in reference units, of the diagonal of a square image of ``reference`` pixels a
        side, so that a mask has the same look at every resolution.
    reference : int, default 256
        Image side for which the stroke widths were chosen, in pixels.

    Attributes
    ----------
    hole : NDArray[bool]
        ``(height, width)``; True = covered.
    span_x : int
        Width in reference units.
    span_y : int
        Height in reference units.

    Raises
    ------
    ValueError
        For an unknown scale and for a side below 2 pixels.
    """

    def __init__(
        self, height: int, width: int, scale: str = "native", reference: int = REFERENCE_SIDE
    ):
        check_scale(scale)
        if min(height, width) < 2:
            raise ValueError(
                f"a mask of {height} x {width} pixels is too small; both sides need at least 2"
            )
        unit = 1.0 if scale == "native" else math.sqrt((height**2 + width**2) / 2) / reference
        self.span_y, self.span_x = max(round(height / unit), 2), max(round(width / unit), 2)
        self._y = _centres(height, self.span_y)
        self._x = _centres(width, self.span_x)
        self.hole: NDArray[np.bool_] = np.zeros((height, width), dtype=bool)

    @property
    def diagonal(self) -> float:
        """Return the length of the diagonal in reference units."""
        return math.hypot(self.span_y, self.span_x)

    def box(self, x: int, y: int, width: int, height: int) -> None:
        """Cover a box with upper left corner ``(x, y)``; parts outside the canvas are cut off."""
        self.hole[_between(self._y, y, y + height - 1), _between(self._x, x, x + width - 1)] = True

    def disc(self, x: int, y: int, diameter: int) -> None:
        """Cover the disc of this diameter about ``(x, y)``."""
        reach = diameter / 2
        rows = _between(self._y, y - reach, y + reach)
        columns = _between(self._x, x - reach, x + reach)
        u, v = self._x[columns] - x, self._y[rows, None] - y
        self.hole[rows, columns] |= 4 * (u * u + v * v) <= diameter * diameter

    def band(self, start: tuple[int, int], end: tuple[int, int], thickness: int) -> None:
        """Cover a straight line of this thickness with square ends.

        With a disc at each end it is a capsule.
        """
        reach, (x, y), (dx, dy) = thickness / 2, start, (end[0] - start[0], end[1] - start[1])
        rows = _between(self._y, min(y, end[1]) - reach, max(y, end[1]) + reach)
        columns = _between(self._x, min(x, end[0]) - reach, max(x, end[0]) + reach)
        u, v = self._x[columns] - x, self._y[rows, None] - y
        along, across, length2 = u * dx + v * dy, u * dy - v * dx, dx * dx + dy * dy
        # squared and without a division: exact for whole numbers, so ties fall the same way on
        # every machine
        self.hole[rows, columns] |= (
            (along >= 0) & (along < length2) & (4 * across * across <= thickness**2 * length2)
        )

    def polyline(self, points: list[tuple[int, int]], thickness: int) -> None:
        """Cover all points nearer than half the thickness to the line through ``points``."""
        for x, y in points:
            self.disc(x, y, thickness)
        for start, end in pairwise(points):
            self.band(start, end, thickness)


@dataclass(frozen=True)
class Brush:
    """Ranges from which a stroke is drawn; both limits of each range are included.

    Parameters
    ----------
    segments : tuple[int, int]
        Number of straight segments of a stroke.
    thickness : tuple[int, int]
        Width in reference units, constant within a stroke.
    """

    segments: tuple[int, int]
    thickness: tuple[int, int]

    def stroke(self, rng: np.random.Generator, canvas: Canvas) -> None:
        """Draw one zig-zag stroke from a uniformly chosen start.

        As in gated convolution (Yu et al., 2019), CoModGAN and Palette. Segment lengths are normal
        with mean ``R = diagonal / 8`` and standard deviation ``floor(R / 2)``, clipped to
        ``[0, 2 R]``. Vertices are clipped to the canvas and truncated to whole units.
        """
        count = int(rng.integers(self.segments[0], self.segments[1] + 1))
        least = _MEAN_ANGLE - rng.uniform(0, _ANGLE_RANGE)
        most = _MEAN_ANGLE + rng.uniform(0, _ANGLE_RANGE)
        angles = rng.uniform(least, most, count)
        angles[::2] = 2 * math.pi - angles[::2]
        mean = canvas.diagonal / 8
        lengths = np.clip(rng.normal(mean, mean // 2, count), 0, 2 * mean)
        steps = np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], 1)
        x, y = int(rng.integers(canvas.span_x)), int(rng.integers(canvas.span_y))
        points = [(x, y)]
        for step_x, step_y in steps.tolist():
            x = int(min(max(x + step_x, 0), canvas.span_x))
            y = int(min(max(y + step_y, 0), canvas.span_y))
            points.append((x, y))
        canvas.polyline(points, int(rng.integers(self.thickness[0], self.thickness[1] + 1)))


def check_scale(scale: str) -> None:
    """Check the name of a scale.

    Raises
    ------
    ValueError
        Unless ``scale`` is one of :data:`SCALES`.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale '{scale}'; valid: {', '.join(SCALES)}")


def _centres(pixels: int, span: int) -> NDArray[np.float64]:
    """Return the centres of ``pixels`` pixels that fill ``span`` units.

    They are the whole numbers where both are equal.
    """
    return (np.arange(pixels, dtype=np.float64) + 0.5) * (span / pixels) - 0.5


def _between(centres: NDArray[np.float64], low: float, high: float) -> slice:
    """Return the pixels whose centres lie in ``[low, high]``."""
    return slice(
        int(np.searchsorted(centres, low, "left")), int(np.searchsorted(centres, high, "right"))
    )
