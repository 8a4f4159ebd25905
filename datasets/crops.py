"""From an image of any size to a square one: the conventions of the priors' own data, which are not
interchangeable.

The results of two of them are only some 20 to 40 dB PSNR apart, so the name of the crop is a
setting of the data and part of the hash of every cell. A square image of the wanted size passes
through each of them unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Crop = Callable[[Image.Image, int], Image.Image]
Places = NDArray[np.intp]


def guided(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of ADM (Dhariwal and Nichol 2021), used for ImageNet priors: a ``size x
    size`` image.

    Halved with a box filter as long as the short side is at least twice the size; then bicubic to a
    short side of ``size``; then cropped, with the odd pixel left over on the right and at the
    bottom.
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
    """The centre crop of EDM's ``dataset_tool.py`` (Karras et al. 2022): the centred square,
    Lanczos to size.
    """
    return _centre(image).resize((size, size), Image.Resampling.LANCZOS)


def bicubic(image: Image.Image, size: int) -> Image.Image:
    """That of latent diffusion for LSUN (Rombach et al. 2022): the centred square, bicubic to
    size.
    """
    return _centre(image).resize((size, size), Image.Resampling.BICUBIC)


CROPS: dict[str, Crop] = {"guided": guided, "edm": edm, "bicubic": bicubic}
"""What ``data.crop`` may name."""


def _centre(image: Image.Image) -> Image.Image:
    """The largest centred square; an odd pixel is left over on the right or at the bottom."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def places(crop: str, height: int, width: int, size: int) -> tuple[Places, Places]:
    """Where the pixels of a cropped image come from: a row of the original for every row, a column
    for every column.

    The centre of a new pixel lies within the old one named here, so that these indices carry masks
    and label maps as the crop of that name carries photographs.
    """
    if crop == "guided":
        rows, columns = height, width
        while min(rows, columns) >= 2 * size:
            rows, columns = rows // 2, columns // 2
        scale = size / min(rows, columns)
        rows, columns = round(rows * scale), round(columns * scale)
        top, left = (rows - size) // 2, (columns - size) // 2
        return _centres(height, rows)[top : top + size], _centres(width, columns)[
            left : left + size
        ]
    side = min(height, width)
    inside = _centres(side, size)
    return (height - side) // 2 + inside, (width - side) // 2 + inside


def _centres(old: int, new: int) -> Places:
    """Of ``new`` pixels on the length of ``old`` ones, the old pixel that the centre of each lies
    in.
    """
    return (2 * np.arange(new) + 1) * old // (2 * new)
