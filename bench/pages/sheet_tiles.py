"""The tiles of a contact sheet: images, observations, maps and failed draws."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from posterior_bench.bench.pages.sheet_colours import CROSS, FAILED, HOLE, SPREAD, STRIPE
from posterior_bench.bench.pages.sheet_panels import Floats, PanelArrays

Pixels = NDArray[np.uint8]


def observation_tiles(view: PanelArrays, height: int, width: int) -> list[Pixels]:
    """Return observations with a hatched hole.

    No image is striped in this colour, so the hole cannot be taken for content.
    """
    if view.observed.ndim != 4 or view.observed.shape[1] not in (1, 3):
        return [np.full((height, width, 3), rgb8(to_rgb(FAILED)), np.uint8)] * len(view.truth)
    seen = [
        _scaled(m[0].astype(np.uint8), height, width).astype(bool)[..., None] for m in view.mask
    ]
    pictures = [picture_tile(y, height, width) for y in view.observed]
    return [
        np.where(m, picture, hatch(height, width))
        for m, picture in zip(seen, pictures, strict=True)
    ]


def picture_tile(x: Floats, height: int, width: int) -> Pixels:
    """Return ``(C, H, W)`` in [-1, 1] as RGB of the tile's size.

    A crossed tile if it is not finite.
    """
    if not np.isfinite(x).all():
        return _cross(height, width)
    pixels = np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)
    return _scaled(np.broadcast_to(pixels, (3, *x.shape[1:])).transpose(1, 2, 0), height, width)


def heat_tile(x: Floats, largest: float, height: int, width: int) -> Pixels:
    """Return a map from 0 to ``largest`` in colours; a crossed tile if it is not finite."""
    if not np.isfinite(x).all():
        return _cross(height, width)
    return _scaled(rgb8(SPREAD(np.clip(x / max(largest, 1e-9), 0, 1))[..., :3]), height, width)


def _scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale with nearest neighbours upwards, area averages downwards."""
    how = (
        Image.Resampling.BOX
        if height < pixels.shape[0] and pixels.ndim == 3
        else Image.Resampling.NEAREST
    )
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), how))


def hatch(height: int, width: int) -> Pixels:
    """Return the hatching of a hole."""
    y, x = np.mgrid[:height, :width]
    return np.where(((x + y) % 8 < 3)[..., None], rgb8(to_rgb(STRIPE)), rgb8(to_rgb(HOLE)))


def _cross(height: int, width: int) -> Pixels:
    """Return the tile of a failed draw."""
    y, x = np.mgrid[:height, :width] / np.array([height - 1, width - 1])[:, None, None]
    line = np.minimum(abs(x - y), abs(x + y - 1)) < 0.015
    return np.where(line[..., None], rgb8(to_rgb(CROSS)), rgb8(to_rgb(FAILED)))


def rgb8(colour: ArrayLike) -> Pixels:
    """Return a colour in [0, 1] as bytes."""
    return np.round(np.asarray(colour) * 255).astype(np.uint8)
