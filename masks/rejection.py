"""Draw masks until one has the hole fraction that was asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

TRIES = 2000  # a mask accepted once in a hundred draws is missed with probability 2e-9


def check_range(low: float, high: float) -> None:
    """Raise ValueError unless ``0 <= low < high <= 1``."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"hole fractions need 0 <= low < high <= 1, not low={low} and high={high}")


def until_within(
    draw: Callable[[], NDArray[np.bool_]], low: float, high: float
) -> NDArray[np.bool_]:
    """The first hole drawn whose fraction lies strictly between ``low`` and ``high``.

    Everything is drawn anew after a rejection. Raises ValueError after :data:`TRIES` rejections.
    """
    smallest, largest = 1.0, 0.0
    for _ in range(TRIES):
        hole = draw()
        fraction = float(hole.mean())
        if low < fraction < high:
            return hole
        smallest, largest = min(smallest, fraction), max(largest, fraction)
    height, width = hole.shape
    raise ValueError(
        f"none of {TRIES} masks of {height} x {width} pixels has a hole fraction between {low} and "
        f"{high} "
        f"(they lie in {smallest:.3f} to {largest:.3f}); widen the range, or change the scale of "
        f"the strokes"
    )
