"""Crop and resize images to squares in the ways of the priors' own training data.

These crops are not interchangeable: the PSNR between the results of two of them is only 20 to 40
dB. The name of the crop is therefore a setting of the data and part of the hash of every cell. A
square image of the requested size passes through each of them unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Crop = Callable[[Image.Image, int], Image.Image]
Places = NDArray[np.intp]


def guided(image: Image.Image, size: int) -> Image.Image:
    """Crop the centre as ADM does for ImageNet (Dhariwal and Nichol, 2021).

    The image is halved with a box filter while its short side is at least twice ``size``, resized
    bicubically to a short side of ``size``, and cropped to ``size x size`` pixels. An odd pixel is
    cut off on the right and at the bottom.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def edm(image: Image.Image, size: int) -> Image.Image:
    """Crop the centred square and resize it with the Lanczos filter.

    As ``dataset_tool.py`` of EDM does (Karras et al., 2022).
    """
    return _centre(image).resize((size, size), Image.Resampling.LANCZOS)


def bicubic(image: Image.Image, size: int) -> Image.Image:
    """Crop the centred square and resize it bicubically.

    As latent diffusion does for LSUN (Rombach et al., 2022).
    """
    return _centre(image).resize((size, size), Image.Resampling.BICUBIC)


def bilinear(image: Image.Image, size: int) -> Image.Image:
    """Resize to a short side of ``size``, bilinearly with antialiasing, and crop the centre.

    As ``Resize`` and ``CenterCrop`` of torchvision 0.17 and later do for tensors, which DAPS uses
    (Zhang et al., 2025), up to the rounding to 8 bits.
    """
    height, width = _short_side(image.height, image.width, size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image.crop((left, top, left + size, top + size))


def square_bilinear(image: Image.Image, size: int) -> Image.Image:
    """Crop the centred square and resize it bilinearly with antialiasing.

    As ``CenterCrop(178)`` and ``Resize`` of torchvision do for the photographs of CelebA, which
    PnP-Flow uses (Martin et al., 2025).
    """
    return _centre(image).resize((size, size), Image.Resampling.BILINEAR)


CROPS: dict[str, Crop] = {
    "guided": guided,
    "edm": edm,
    "bicubic": bicubic,
    "bilinear": bilinear,
    "square_bilinear": square_bilinear,
}
"""Crops by the value of ``data.crop``."""


def _centre(image: Image.Image) -> Image.Image:
    """Crop the largest centred square; an odd pixel is cut off on the right or at the bottom."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width at which the short side is ``size``; the long side is cut down."""
    short = min(height, width)
    return size * height // short, size * width // short


def places(crop: str, height: int, width: int, size: int) -> tuple[Places, Places]:
    """Find the pixels of the original that the pixels of a cropped image show.

    Masks and label maps are carried with these indices in the same way as photographs with the
    crop.

    Parameters
    ----------
    crop : str
        A key of :data:`CROPS`.
    height : int
        Height of the original in pixels.
    width : int
        Width of the original in pixels.
    size : int
        Side of the cropped image in pixels.

    Returns
    -------
    rows : NDArray[int]
        ``(size,)``: the row of the original in which the centre of each new row lies.
    columns : NDArray[int]
        ``(size,)``: the same for columns.
    """
    if crop == "guided":
        rows, columns = height, width
        while min(rows, columns) >= 2 * size:
            rows, columns = rows // 2, columns // 2
        scale = size / min(rows, columns)
        rows, columns = round(rows * scale), round(columns * scale)
        top, left = (rows - size) // 2, (columns - size) // 2
        kept_rows = _centres(height, rows)[top : top + size]
        return kept_rows, _centres(width, columns)[left : left + size]
    if crop == "bilinear":
        rows, columns = _short_side(height, width, size)
        top, left = round((rows - size) / 2), round((columns - size) / 2)
        kept_rows = _centres(height, rows)[top : top + size]
        return kept_rows, _centres(width, columns)[left : left + size]
    side = min(height, width)
    inside = _centres(side, size)
    return (height - side) // 2 + inside, (width - side) // 2 + inside


def _centres(old: int, new: int) -> Places:
    """Return for each of ``new`` pixels the one of ``old`` pixels in which its centre lies."""
    return (2 * np.arange(new) + 1) * old // (2 * new)
