"""Observe single pixels: a random fraction or number, the first ones, or those of a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator

PLACES = ("random", "first")


@dataclass(frozen=True)
class Pixels(MaskGenerator):
    """Independent pixels, for synthetic problems of any shape.

    Parameters
    ----------
    observed : float, default 0.5
        Observed pixels: a fraction of all if below 1 (rounded, at least one pixel), otherwise their
        number.
    place : str, default 'random'
        ``random`` = every choice is equally likely; ``first`` = the first ones in reading order.

    Raises
    ------
    ValueError
        If ``observed`` is not positive, is 1 or more but not whole, or exceeds the number of
        pixels, and for an unknown ``place``.
    """

    observed: float = 0.5
    place: str = "random"

    def __post_init__(self) -> None:
        if not 0 < self.observed < math.inf or (
            self.observed >= 1 and self.observed != int(self.observed)
        ):
            raise ValueError(
                f"observed={self.observed}: give a fraction between 0 and 1, "
                "or a whole number of pixels"
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
                f"{count} observed pixels are more than {height} x {width} "
                "images have; observe fewer"
            )
        mask = np.zeros(height * width, dtype=bool)
        chosen = rng.permutation(height * width) if self.place == "random" else np.arange(len(mask))
        mask[chosen[:count]] = True
        return mask.reshape(height, width)


@dataclass(frozen=True)
class ListedPixels(MaskGenerator):
    """The pixels of a list, for synthetic problems whose mask is published.

    Parameters
    ----------
    listed : Sequence[int]
        The observed pixels, counted from 0 in reading order.

    Raises
    ------
    ValueError
        If a pixel is listed twice or is negative, or the image has fewer pixels.
    """

    listed: Sequence[int]

    def __post_init__(self) -> None:
        if len(set(self.listed)) < max(len(self.listed), 1) or min(self.listed) < 0:
            raise ValueError(
                f"listed={list(self.listed)}: name each observed pixel once, counted from 0"
            )

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        if max(self.listed) >= height * width:
            raise ValueError(
                f"pixel {max(self.listed)} is outside an image of {height} x {width} pixels; "
                "list smaller numbers"
            )
        mask = np.zeros(height * width, dtype=bool)
        mask[list(self.listed)] = True
        return mask.reshape(height, width)


@dataclass(frozen=True)
class PixelDrop(MaskGenerator):
    """A random fraction of the pixels is hidden, as in DPS (Chung et al., 2023).

    The hidden fraction is drawn uniformly between two limits, and ``int(fraction * pixels)`` pixels
    are hidden, in all channels alike.

    Parameters
    ----------
    low : float, default 0.3
        Lower limit of the hidden fraction. The released code of DPS and PSLD has 0.3, the paper of
        DPS 0.92, DAPS and ReSample 0.70.
    high : float, default 0.7
        Upper limit of the hidden fraction. The released code of DPS and PSLD has 0.7, the paper of
        DPS 0.92, DAPS and ReSample 0.71.

    Raises
    ------
    ValueError
        Unless ``0 <= low <= high < 1``, and for an image in which no pixel would be hidden.
    """

    low: float = 0.3
    high: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise ValueError(
                f"hidden fractions need 0 <= low <= high < 1, not low={self.low} "
                f"and high={self.high}"
            )

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        hidden = int(rng.uniform(self.low, self.high) * height * width)
        if hidden == 0:
            raise ValueError(
                f"a fraction of {self.low} to {self.high} hides no pixel of "
                f"{height} x {width}; raise high"
            )
        return Pixels(observed=height * width - hidden).generate(rng, height, width)
