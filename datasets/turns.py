"""Turn photographs upright according to their EXIF orientation."""

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
    """Return the EXIF orientation of an image that is opened but not yet decoded.

    Returns
    -------
    int
        1 to 8; 1 = upright. An image without orientation is upright, and so is a TIFF file, which
        Pillow turns itself.
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
    """Turn an image upright."""
    return image if turn == UPRIGHT else image.transpose(_OPERATIONS[turn])


def turned_plane(plane: NDArray[Any], turn: int) -> NDArray[Any]:
    """Turn values ``(H, W)`` upright that lie as the file stores them."""
    if turn in (5, 6, 7, 8):
        plane = plane.T
    if turn in (3, 4, 7, 8):
        plane = plane[::-1]
    return plane[:, ::-1] if turn in (2, 3, 6, 7) else plane


def turned_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """Return height and width of an image after turning it upright."""
    return size[::-1] if turn in (5, 6, 7, 8) else size
