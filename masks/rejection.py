"""Draw masks until the hole has the requested size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

TRIES = 2000  # a mask accepted once in a hundred draws is missed with probability 2e-9


def check_range(low: float, high: float) -> None:
    """Check a range of hole fractions.

    Parameters
    ----------
    low : float
        Lower limit of the hidden fraction.
    high : float
        Upper limit of the hidden fraction.

    Raises
    ------
    ValueError
        Unless ``0 <= low < high <= 1``.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"hole fractions need 0 <= low < high <= 1, not low={low} and high={high}")


def until_within(
    draw: Callable[[], NDArray[np.bool_]], low: float, high: float
) -> NDArray[np.bool_]:
    """Draw holes until the hidden fraction lies strictly between two limits.

    Each rejected hole is replaced by an independent one.

    Parameters
    ----------
    draw : Callable
        Function without arguments that draws one hole, bool ``(H, W)``; True = hidden.
    low : float
        Lower limit of the hidden fraction.
    high : float
        Upper limit of the hidden fraction.

    Returns
    -------
    NDArray[bool]
        The first hole within the limits.

    Raises
    ------
    ValueError
        After :data:`TRIES` rejected holes.
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
        f"{high}: they range from {smallest:.3f} to {largest:.3f}; widen the range, or "
        "change the scale of the strokes"
    )
