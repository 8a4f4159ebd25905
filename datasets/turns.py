"""EXIF orientation: how a camera was held, and what makes its picture upright."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from PIL import ExifTags, Image

_OPERATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UPRIGHT = 1


def turn_of(image: Image.Image) -> int:
    """The EXIF orientation of an image that is opened and not yet decoded, 1 to 8; 1 where it has
    none.

    TIFF files count as upright: Pillow turns them itself.
    """
    # where a PNG file has its tag behind the pixels, Pillow would decode them to look for it
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return UPRIGHT
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # damaged tags surface as almost any error, and the picture is still one
        return UPRIGHT
    return turn if turn in _OPERATIONS else UPRIGHT


def turned_image(image: Image.Image, turn: int) -> Image.Image:
    """The image upright."""
    return image if turn == UPRIGHT else image.transpose(_OPERATIONS[turn])


def turned_plane(plane: NDArray[Any], turn: int) -> NDArray[Any]:
    """``(H, W)`` values as the file holds them, upright."""
    if turn in (5, 6, 7, 8):
        plane = plane.T
    if turn in (3, 4, 7, 8):
        plane = plane[::-1]
    return plane[:, ::-1] if turn in (2, 3, 6, 7) else plane


def turned_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """Height and width of an image, upright."""
    return size[::-1] if turn in (5, 6, 7, 8) else size
