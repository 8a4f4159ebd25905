"""Convert image files of every kind to 8-bit RGB or grey."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif", ".avif")
MODES = {"rgb": "RGB", "grey": "L"}
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
)
"""Exceptions that Pillow raises for files that are damaged, truncated or no images."""


def eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Convert any image to 8 bits.

    Grey is repeated in each channel, palettes are looked up, transparency is laid over white, CMYK
    is converted without its colour profile, 16-bit grey is rounded to 8 bits, and the upper byte of
    16-bit colour is kept. Embedded profiles are ignored, as in the code of the priors. The first
    frame of an animation is used.

    Parameters
    ----------
    image : PIL.Image.Image
        An image of any mode.
    mode : str
        ``RGB`` or ``L``.

    Returns
    -------
    PIL.Image.Image
        The image in ``mode``.

    Raises
    ------
    ValueError
        If the pixels are floating-point numbers or integers of more than 16 bits.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    # 16-bit grey, which Pillow's own conversion would clip at 255 instead of scaling
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                "its pixels are numbers of more than 16 bits; save it with 8 or 16 bits"
            )
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image.convert("RGB").convert(mode)


def skim(image: Image.Image) -> None:
    """Read a whole image to find out whether it can be read.

    A JPEG is decoded at an eighth of its size, which is much faster. A damaged file raises one of
    :data:`UNREADABLE`.
    """
    image.draft(image.mode, (1, 1))
    image.load()


def is_animated(image: Image.Image) -> bool:
    """Tell whether a file holds an animation.

    The second picture in a photograph (MPO) does not count.
    """
    if image.format not in ("GIF", "WEBP", "PNG", "AVIF", "TIFF"):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except UNREADABLE:  # the second picture is damaged, and only the first one is used
        return False
