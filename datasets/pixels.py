"""Image files of every kind as 8-bit RGB or grey, in one documented way."""

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
"""What Pillow raises for files that are damaged, cut short or no images."""


def eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Any image as 8-bit ``RGB`` or ``L``.

    Grey is repeated in each channel, palettes are looked up, transparency is laid over white, CMYK
    is converted without its colour profile, 16-bit grey is rounded to 8 bits, and of 16-bit colour
    the upper byte is kept. Embedded profiles are ignored, as in the code of the priors. Of an
    animation, the first frame counts. ValueError for numbers that are no grey levels of 8 or 16
    bits.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith(
        "I"
    ):  # 16-bit grey, which Pillow's own conversion would clip at 255 instead of scaling
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
    """Read a whole image to learn whether that can be done; a JPEG at an eighth of its size, which
    is much faster.

    Raises what Pillow raises for a damaged file.
    """
    image.draft(image.mode, (1, 1))
    image.load()


def is_animated(image: Image.Image) -> bool:
    """Whether a file holds several pictures in a row; the second one of a photograph (MPO) does not
    count.
    """
    try:
        return image.format in ("GIF", "WEBP", "PNG", "AVIF", "TIFF") and bool(
            getattr(image, "is_animated", False)
        )
    except UNREADABLE:  # of a second picture, and the first is what counts
        return False
