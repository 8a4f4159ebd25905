"""The part of a picture that a figure shows enlarged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from posterior_bench.bench.pages.thumbnails import Floats, Pixels

SHARE = 3
"""The side of a window is that of the picture divided by this."""


@dataclass(frozen=True)
class Crop:
    """A square window of a picture, in its pixels.

    Parameters
    ----------
    x, y : int
        Its upper left corner.
    side : int
        Its side.
    """

    x: int
    y: int
    side: int

    def inside(self, height: int, width: int) -> bool:
        """Return whether the window lies in a picture of this size."""
        return self.x + self.side <= width and self.y + self.side <= height

    def of(self, pixels: Pixels, height: int, width: int) -> Pixels:
        """Return the window of a version ``pixels`` of a picture ``(height, width)``."""
        down, across = pixels.shape[0] / height, pixels.shape[1] / width
        top, bottom = round(self.y * down), round((self.y + self.side) * down)
        left, right = round(self.x * across), round((self.x + self.side) * across)
        return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]


def hidden_crop(truth: Pixels, observed: Pixels | None) -> Crop:
    """Return the window where most detail is hidden.

    That is the share of its pixels that the observation does not show, times their standard
    deviation in the truth. No solver plays a role.

    Parameters
    ----------
    truth : array of uint8 (H, W) or (H, W, 3)
        The picture.
    observed : array of uint8 or None
        The observation; None if it is no picture, and then the standard deviation decides alone.
    """
    grey = _grey(truth)
    side = max(1, min(grey.shape) // SHARE)
    hidden = np.ones_like(grey) if observed is None else _hidden(truth, observed)
    mean = _window_means(grey, side)
    deviation = np.sqrt(np.maximum(_window_means(grey**2, side) - mean**2, 0))
    detail = deviation * (_window_means(hidden, side) if hidden.any() else 1.0)
    y, x = np.unravel_index(detail.argmax(), detail.shape)
    return Crop(int(x), int(y), side)


def _hidden(truth: Pixels, observed: Pixels) -> Floats:
    """Return 1 where a colour of the observation differs from that of the truth."""
    height, width = truth.shape[:2]
    shown = Image.fromarray(observed).convert("RGB")
    shown = shown.resize((width, height), Image.Resampling.NEAREST)
    original = np.asarray(Image.fromarray(truth).convert("RGB"), dtype=float)
    return (np.abs(np.asarray(shown) - original).max(axis=-1) > 1).astype(float)


def _grey(pixels: Pixels) -> Floats:
    return pixels.astype(float) if pixels.ndim == 2 else pixels.astype(float).mean(axis=-1)


def _window_means(values: Floats, side: int) -> Floats:
    """Return the means over all windows, by their upper left corners."""
    start = side // 2
    height, width = (size - side + 1 for size in values.shape)
    means: Floats = uniform_filter(values, side, mode="constant")
    return means[start : start + height, start : start + width]
