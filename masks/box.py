"""Hide or keep a box in the centre or at a random place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator

POSITIONS = ("centre", "random")
OBSERVED = ("outside", "inside")


@dataclass(frozen=True)
class Box(MaskGenerator):
    """One axis-aligned box, hidden or kept.

    The hidden box is that of DPS (Chung et al., 2023). Keeping the box instead is known as
    expanding or uncropping.

    Parameters
    ----------
    side : float, default 0.5
        Side of the box: a fraction of each image side if below 1, otherwise whole pixels.
    margin : float, default 0.0625
        Least distance of the box from the border: a fraction or whole pixels, in the same way.
    position : str, default 'random'
        ``random`` = every place inside the margin is equally likely; ``centre`` = in the centre.
    observed : str, default 'outside'
        ``outside`` hides the box; ``inside`` hides everything else.

    Raises
    ------
    ValueError
        For a side of zero or less, a negative margin, an unknown name, and a box that does not fit
        into the image or fills it.

    Notes
    -----
    The defaults hide a quarter of the image, at least 16 of 256 pixels away from the border. The
    released code of DPS never draws the last row and column of places; this class does.
    """

    side: float = 0.5
    margin: float = 0.0625
    position: str = "random"
    observed: str = "outside"

    def __post_init__(self) -> None:
        if not (0 < self.side < math.inf and 0 <= self.margin < math.inf):
            raise ValueError(
                f"a box needs side > 0 and margin >= 0, not side={self.side} "
                f"and margin={self.margin}"
            )
        for name, value, valid in (
            ("position", self.position, POSITIONS),
            ("observed", self.observed, OBSERVED),
        ):
            if value not in valid:
                raise ValueError(f"unknown {name} '{value}'; valid: {', '.join(valid)}")
        for name, size in (("side", self.side), ("margin", self.margin)):
            if size >= 1 and size != int(size):
                raise ValueError(
                    f"{name}={size}: from 1 on it counts whole pixels, below 1 it is a fraction"
                )

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        rows, columns = self._extent(rng, height), self._extent(rng, width)
        inside = np.zeros((height, width), dtype=bool)
        inside[rows, columns] = True
        if inside.all():
            raise ValueError(
                f"a box with side={self.side} fills the whole {height} x "
                f"{width} image; make it smaller"
            )
        return inside if self.observed == "inside" else ~inside

    def _extent(self, rng: np.random.Generator, length: int) -> slice:
        """Return the pixels that the box covers along an image side of ``length`` pixels."""
        side, margin = max(_pixels(self.side, length), 1), _pixels(self.margin, length)
        free = length - side - 2 * margin
        if free < 0:
            raise ValueError(
                f"a box of {side} pixels with a margin of {margin} does not fit into "
                f"{length}; make one of them smaller"
            )
        start = margin + (int(rng.integers(free + 1)) if self.position == "random" else free // 2)
        return slice(start, start + side)


def _pixels(size: float, length: int) -> int:
    """Convert a size to pixels: below 1 it is a fraction of ``length``."""
    return round(size * length) if size < 1 else int(size)
