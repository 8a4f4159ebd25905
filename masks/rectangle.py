"""Hide one rectangle at a fixed place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator


@dataclass(frozen=True)
class Rectangle(MaskGenerator):
    """One rectangle is hidden, at the same place in every image.

    Parameters
    ----------
    rows, columns : tuple[float, float]
        Where the rectangle begins and ends, as fractions of the height and of the width, from 0 to
        1. The defaults are those of FLAIR (Erbach et al., 2025): rows 128 to 639 and columns 384 to
        639 of 768 pixels.

    Raises
    ------
    ValueError
        Unless ``0 <= begin < end <= 1`` along both sides, and for a rectangle that covers no pixel
        or the whole image.
    """

    rows: tuple[float, float] = (1 / 6, 5 / 6)
    columns: tuple[float, float] = (1 / 2, 5 / 6)

    def __post_init__(self) -> None:
        for name, ends in (("rows", self.rows), ("columns", self.columns)):
            if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
                raise ValueError(
                    f"{name}={list(ends)}: give the fractions where the rectangle begins and ends"
                )

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        mask = np.ones((height, width), dtype=bool)
        mask[_span(self.rows, height), _span(self.columns, width)] = False
        if mask.all() or not mask.any():
            raise ValueError(
                f"rows={list(self.rows)} and columns={list(self.columns)} hide nothing or all of "
                f"{height} x {width} pixels; choose other fractions"
            )
        return mask


def _span(ends: tuple[float, float], length: int) -> slice:
    return slice(*(round(end * length) for end in ends))
