"""Small masks: a few free-form brush strokes, and the other definitions of "small" that are in
use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.comod import CoMod
from posterior_bench.masks.rejection import until_within
from posterior_bench.masks.strokes import Brush, Canvas, check_scale

VARIANTS = ("palette_20_30", "vipaint_release", "palette_raw")
_BRUSH = Brush(segments=(4, 11), thickness=(12, 39))


@dataclass(frozen=True)
class Palette(MaskGenerator):
    """Small masks of VIPaint (Agarwal et al. 2025), "adapted from Palette" (Saharia et al. 2022).

    Parameters
    ----------
    variant : str, default 'palette_20_30'
        ``palette_20_30``, one to three strokes that hide 20 to 30 % of the image, Palette's
        free-form test setting and what the paper describes; ``vipaint_release``, boxes that
        hide 20 to 21 %, which is what the released generator draws with the released range;
        ``palette_raw``, the strokes as they come, 15 % on average and up to 46 %.
    scale : str, default 'proportional'
        ``proportional`` draws the mask of a 256-pixel image at the size asked for; ``native``
        keeps stroke widths at 12 to 39 pixels.

    Notes
    -----
    Raises ValueError for an unknown variant or scale, and for a size no mask was found for.
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
        low, high = (0.2, 0.3) if self.variant == "palette_20_30" else (0.0, 1.0)
        return ~until_within(lambda: self.draw(rng, height, width), low, high)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        """One to three strokes, bool ``(height, width)``, True = hidden."""
        canvas = Canvas(height, width, self.scale)
        for _ in range(rng.integers(1, 4)):
            _BRUSH.stroke(rng, canvas)
        return canvas.hole
