"""A box: hidden or kept, in the centre or anywhere."""

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
    """One axis-aligned box, as in DPS (Chung et al. 2023), and its complement, known as expand or
    uncropping.

    Parameters
    ----------
    side : float, default 0.5
        A fraction of each image side if below 1, otherwise whole pixels.
    margin : float, default 0.0625
        The least distance to the border, a fraction or whole pixels alike.
    position : str, default 'random'
        ``random``, uniform over every place inside the margin, or ``centre``.
    observed : str, default 'outside'
        ``outside`` makes the box the hole, ``inside`` hides everything else.

    Notes
    -----
    The defaults hide a quarter of the image, 16 of 256 pixels or more away from the border. (The
    released code of DPS leaves out the last row and column of places.) Raises ValueError for sizes
    below zero, unknown names, and a box that does not fit.
    """

    side: float = 0.5
    margin: float = 0.0625
    position: str = "random"
    observed: str = "outside"

    def __post_init__(self) -> None:
        if not (0 < self.side < math.inf and 0 <= self.margin < math.inf):
            raise ValueError(
                f"a box needs side > 0 and margin >= 0, not side={self.side} and "
                f"margin={self.margin}"
            )
        for name, given, valid in (
            ("position", self.position, POSITIONS),
            ("observed", self.observed, OBSERVED),
        ):
            if given not in valid:
                raise ValueError(f"unknown {name} '{given}'; valid: {', '.join(valid)}")
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
                f"a box with side={self.side} fills the whole {height} x {width} image; make it "
                f"smaller"
            )
        return inside if self.observed == "inside" else ~inside

    def _extent(self, rng: np.random.Generator, length: int) -> slice:
        """Where the box lies along an image side of ``length`` pixels."""
        side, margin = max(_pixels(self.side, length), 1), _pixels(self.margin, length)
        room = length - side - 2 * margin
        if room < 0:
            raise ValueError(
                f"a box of {side} pixels with a margin of {margin} does not fit into {length}; "
                f"make one of them smaller"
            )
        start = margin + (int(rng.integers(room + 1)) if self.position == "random" else room // 2)
        return slice(start, start + side)


def _pixels(size: float, length: int) -> int:
    """A fraction of ``length``, or whole pixels from 1 on."""
    return round(size * length) if size < 1 else int(size)
