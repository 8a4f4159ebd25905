"""Split mask files into black and white, whatever values a program wrote for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]

MARGIN = 0.1
"""Values this near to black or white still count as it, as a fraction of their distance."""

GREY = 0.1
"""Fraction of pixels that may be near to neither black nor white.

The soft edges of a drawn mask stay below it; photographs do not."""

_FEW, _COMMON = 8, 0.01
_LUMA = np.array([0.299, 0.587, 0.114])


def colours_of(path: Path) -> tuple[Array, Array | None]:
    """Read colours and opacity of an image file.

    Parameters
    ----------
    path : Path
        PNG or another image file.

    Returns
    -------
    colours : NDArray
        ``(H, W)`` or ``(H, W, 3)``.
    opacity : NDArray or None
        ``(H, W)``, or None if the file has no transparency.

    Raises
    ------
    ValueError
        If the file cannot be read or has an unusual mode. The message names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode in ("1", "L", "I", "I;16") and "transparency" not in image.info:
                return np.asarray(image), None
            if image.mode in ("RGB", "P", "L", "LA", "PA", "RGBA"):
                pixels = np.asarray(image.convert("RGBA"))
                return pixels[..., :3], pixels[..., 3] if image.has_transparency_data else None
            mode = image.mode
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read '{path}': {error}; repair it") from error
    raise ValueError(f"'{path}' is an image of mode {mode}; save it in black and white")


def white_of(colours: Array, opacity: Array | None, lossy: bool = False) -> NDArray[np.bool_]:
    """Find the white pixels of a mask.

    The brighter of two colours is white. If every pixel has the same colour, the mask is in the
    transparency, and opaque pixels are white.

    Parameters
    ----------
    colours : NDArray
        ``(H, W)`` or ``(H, W, 3)``.
    opacity : NDArray or None
        ``(H, W)``.
    lossy : bool, default False
        The file was compressed like a photograph, so its values are noisy.

    Returns
    -------
    NDArray[bool]
        ``(H, W)``; True = white.

    Raises
    ------
    ValueError
        If the file is no mask. The message continues a sentence that starts with the file's name.
    """
    if opacity is None or opacity.min() == opacity.max():
        return split(colours, lossy)
    opaque = split(opacity)
    if (colours == colours[:1, :1]).all() or _says(colours, opaque):
        return opaque
    raise ValueError(
        "its colours and its transparency say different things; save it in black and white alone"
    )


def _says(colours: Array, white: NDArray[np.bool_]) -> bool:
    try:
        return np.array_equal(split(colours), white)
    except ValueError:
        return False


def split(values: Array, lossy: bool = False) -> NDArray[np.bool_]:
    """Split values or colours into white (True) and black.

    Two distinct values are separated whatever they are. With more values, white is everything above
    the middle between the lowest and the highest brightness.

    Parameters
    ----------
    values : NDArray
        ``(H, W)`` or colours ``(H, W, 3)``.
    lossy : bool, default False
        The file was compressed like a photograph, so its values are noisy.

    Returns
    -------
    NDArray[bool]
        ``(H, W)``; True = white.

    Raises
    ------
    ValueError
        If all pixels are equal, if many lie between the two values, and for label numbers.
    """
    brightness = (values @ _LUMA if values.ndim == 3 else values).astype(np.float64)
    if not np.isfinite(brightness).all():
        raise ValueError(
            f"its values run from {float(values.min())} to {float(values.max())}; give 0 and 1"
        )
    numbers = (
        values.astype(np.int64) @ np.array([65536, 256, 1]) if values.ndim == 3 else brightness
    )
    distinct, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    if len(distinct) == 1:
        raise ValueError(
            "all of its pixels are equal, so that it hides everything or nothing; give two values"
        )
    least, most = brightness.min(), brightness.max()
    if len(distinct) == 2 and least == most:
        raise ValueError("its two colours are equally bright; save it in black and white")
    if len(distinct) > 2:
        _check_two_levels(
            values.reshape(len(brightness.flat), -1), brightness.ravel(), first, counts, lossy
        )
    return brightness > (least + most) / 2


def _check_two_levels(
    values: Array, brightness: Array, first: Array, counts: Array, lossy: bool
) -> None:
    """Raise ValueError unless ``values`` ``(n, C)`` lie near the darkest or the brightest one."""
    dark, bright = (
        values[i].astype(np.float64) for i in (brightness.argmin(), brightness.argmax())
    )
    way = bright - dark
    offset = values[first] - dark
    along = offset @ way / (way @ way)
    beside = np.abs(offset - along[:, None] * way).max(1) / np.abs(way).max()
    low, high = (np.abs(along - end) < MARGIN for end in (0, 1))
    near = (low | high) & (beside < MARGIN)
    grey = counts[~near].sum() / counts.sum()
    if grey > GREY:
        raise ValueError(
            f"{grey:.0%} of its pixels are neither black nor white, as in a photograph; "
            "give a mask of two values"
        )
    common = counts >= _COMMON * counts.sum()
    if not lossy and len(counts) <= _FEW and max((common & low).sum(), (common & high).sum()) > 1:
        raise ValueError(
            f"it holds {len(counts)} values, as label numbers do; give a mask of two "
            "values, or use mask=semantic"
        )
