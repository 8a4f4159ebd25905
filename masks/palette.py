"""Draw small holes: a few brush strokes, or one of the other definitions of "small" in use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.comod import CoMod
from posterior_bench.masks.rejection import until_within
from posterior_bench.masks.strokes import Brush, Canvas, check_scale

_RANGES = {"palette_20_30": (0.2, 0.3), "palette_0_30": (0.0, 0.3), "palette_raw": (0.0, 1.0)}
VARIANTS = (*_RANGES, "vipaint_release")
_BRUSH = Brush(segments=(4, 11), thickness=(12, 39))


@dataclass(frozen=True)
class Palette(MaskGenerator):
    """Small masks of VIPaint, "adapted from Palette".

    VIPaint is Agarwal et al. (2025), Palette is Saharia et al. (2022).

    Parameters
    ----------
    variant : str, default 'palette_20_30'
        ``palette_20_30``: one to three strokes that hide 20 to 30 % of the image. This is Palette's
        free-form test setting. ``palette_0_30``: such strokes that hide at most 30 %, 14 % on
        average; the text of VIPaint says "up to 30 %" in one place and "up to 20 %" in another.
        ``vipaint_release``: boxes that hide 20 to 21 %, the masks that VIPaint's released generator
        draws with its released range. ``palette_raw``: strokes without a limit on the hidden part,
        which is 15 % on average and up to 46 %.
    scale : str, default 'proportional'
        ``proportional`` scales the mask of a 256-pixel image to the size of the image; ``native``
        keeps stroke widths at 12 to 39 pixels at every size.

    Raises
    ------
    ValueError
        For an unknown variant or scale, and if no mask of the required hole size is found.
    """

    variant: str = "palette_20_30"
    scale: str = "proportional"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant '{self.variant}'; valid: {', '.join(VARIANTS)}")
        check_scale(self.scale)

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        if self.variant == "vipaint_release":
            return CoMod(low=0.20, high=0.21, scale=self.scale, strokes=False).generate(
                rng, height, width
            )
        return ~until_within(lambda: self.draw(rng, height, width), *_RANGES[self.variant])

    def draw(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        """Draw one to three strokes, whatever part of the image they hide.

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
        for _ in range(rng.integers(1, 4)):
            _BRUSH.stroke(rng, canvas)
        return canvas.hole
