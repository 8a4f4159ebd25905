"""Hide one half of the image, on one side of a line through its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator


@dataclass(frozen=True)
class RotatedWindow(MaskGenerator):
    """Upper half of the image, rotated about the centre.

    The rotated window of VIPaint (Agarwal et al., 2025) in closed form. A pixel whose centre lies
    ``dx`` to the right of and ``dy`` below the image centre is observed if
    ``dx sin(angle) + dy cos(angle) < 0``. Exactly half of the pixels are hidden; the centre pixel
    of an odd-sized image counts as hidden.

    Parameters
    ----------
    angle : float | None, default None
        Angle in degrees, counter-clockwise: 0 shows the upper half, 90 the left one, 180 the lower
        one, 270 the right one. None draws one of the 360 whole degrees for each mask.

    Raises
    ------
    ValueError
        If the angle is not finite.
    """

    angle: float | None = None

    def __post_init__(self) -> None:
        if self.angle is not None and not math.isfinite(self.angle):
            raise ValueError(f"angle must be a number of degrees or null, not {self.angle}")

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        angle = float(rng.integers(360)) if self.angle is None else self.angle
        # far less than the distance between pixels, far more than rounding errors: pixels on the
        # line split evenly
        radians = math.radians(angle + 1e-9)
        dy = np.arange(height)[:, None] + 0.5 - height / 2
        dx = np.arange(width)[None, :] + 0.5 - width / 2
        return dx * math.sin(radians) + dy * math.cos(radians) < 0
