"""Give the two masks behind Table 1 of DAPS: one box and one set of pixels for all images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator

KINDS = ("box", "pixels")
_SIDE, _BOX, _MARGIN, _SEED = 256, 128, 32, 42
_HIDDEN = (0.70, 0.71)


@dataclass(frozen=True)
class DAPSTable1(MaskGenerator):
    """The exact masks of Table 1 of DAPS (Zhang et al., CVPR 2025).

    The released code draws a single mask from seed 42 and uses it for all 100 images. The masks
    here are the same in every pixel. They depend neither on the image nor on the study seed.

    Parameters
    ----------
    kind : str, default 'box'
        ``box``: rows 70 to 197 and columns 83 to 210, counted from 0, are hidden. ``pixels``:
        46 120 of the 65 536 pixels, 70.4 %, are hidden.

    Raises
    ------
    ValueError
        For an unknown kind, and for images that are not 256 x 256 pixels large.

    Notes
    -----
    The masks are drawn as the released code draws them, with NumPy's legacy generator, whose
    numbers are the same in every version of NumPy.
    """

    kind: str = "box"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind '{self.kind}'; valid: {', '.join(KINDS)}")

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        if (height, width) != (_SIDE, _SIDE):
            other = "mask=box_daps" if self.kind == "box" else "mask=drop70"
            raise ValueError(
                f"the masks of DAPS Table 1 exist at {_SIDE} x {_SIDE} pixels only, not at "
                f"{height} x {width}; {other} mask.shared=true draws such a mask at any size"
            )
        legacy = np.random.RandomState(_SEED)
        return _box(legacy) if self.kind == "box" else _pixels(legacy)


def _box(legacy: np.random.RandomState) -> NDArray[np.bool_]:
    mask = np.ones((_SIDE, _SIDE), dtype=bool)
    top, left = (int(legacy.randint(_MARGIN, _SIDE - _MARGIN - _BOX)) for _ in range(2))
    mask[top : top + _BOX, left : left + _BOX] = False
    return mask


def _pixels(legacy: np.random.RandomState) -> NDArray[np.bool_]:
    mask = np.ones(_SIDE * _SIDE, dtype=bool)
    count = int(legacy.uniform(*_HIDDEN) * mask.size)
    mask[legacy.choice(mask.size, count, replace=False)] = False
    return mask.reshape(_SIDE, _SIDE)
