"""Single pixels: a random share or number of them, or the first ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator

PLACES = ("random", "first")


@dataclass(frozen=True)
class Pixels(MaskGenerator):
    """Every pixel is a coordinate of its own: the masks of synthetic problems, of any shape.

    Parameters
    ----------
    observed : float, default 0.5
        A fraction of all pixels if below 1 (rounded, but one pixel at least), otherwise how
        many.
    place : str, default 'random'
        ``random``, every choice equally likely, or ``first``, in reading order.

    Notes
    -----
    Raises ValueError for an ``observed`` that is not positive or not whole from 1 on, an unknown
    ``place``, and for more pixels than an image has.
    """

    observed: float = 0.5
    place: str = "random"

    def __post_init__(self) -> None:
        if not 0 < self.observed < math.inf or (
            self.observed >= 1 and self.observed != int(self.observed)
        ):
            raise ValueError(
                f"observed={self.observed}: give a fraction between 0 and 1, or a whole number of "
                f"pixels"
            )
        if self.place not in PLACES:
            raise ValueError(f"unknown place '{self.place}'; valid: {', '.join(PLACES)}")

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        count = (
            max(1, round(self.observed * height * width))
            if self.observed < 1
            else int(self.observed)
        )
        if count > height * width:
            raise ValueError(
                f"{count} observed pixels are more than {height} x {width} images have; observe "
                f"fewer"
            )
        mask = np.zeros(height * width, dtype=bool)
        mask[
            rng.permutation(height * width)[:count] if self.place == "random" else slice(count)
        ] = True
        return mask.reshape(height, width)


@dataclass(frozen=True)
class PixelDrop(MaskGenerator):
    """A random share of the pixels is hidden, and the share itself is random, as in DPS (Chung et
    al. 2023).

    Parameters
    ----------
    low, high : float, default 0.3, 0.7
        The hidden share is uniform between them; ``int(share * pixels)`` pixels are hidden, all
        channels alike. The released code of DPS and PSLD has 0.3 and 0.7, the paper of DPS 0.92
        for both; DAPS and ReSample 0.70 and 0.71.

    Notes
    -----
    Raises ValueError unless ``0 <= low <= high < 1``, and for images of which nothing would be
    hidden.
    """

    low: float = 0.3
    high: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise ValueError(
                f"hidden shares need 0 <= low <= high < 1, not low={self.low} and high={self.high}"
            )

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        hidden = int(rng.uniform(self.low, self.high) * height * width)
        if hidden == 0:
            raise ValueError(
                f"a share of {self.low} to {self.high} hides no pixel of {height} x {width}; raise "
                f"it"
            )
        return Pixels(observed=height * width - hidden).generate(rng, height, width)
