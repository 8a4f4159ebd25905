"""From an image of any size to a square one: the conventions of the priors' own data, which are not interchangeable.

The results of two of them are only some 20 to 40 dB PSNR apart, so the name of the crop is a setting of the data and
part of the hash of every cell. A square image of the wanted size passes through each of them unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

Crop = Callable[[Image.Image, int], Image.Image]


def guided(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of ADM (Dhariwal and Nichol 2021), used for ImageNet priors: a ``size x size`` image.

    Halved with a box filter as long as the short side is at least twice the size; then bicubic to a short side of
    ``size``; then cropped, with the odd pixel left over on the right and at the bottom.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def edm(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of EDM's ``dataset_tool.py`` (Karras et al. 2022): the centred square, Lanczos to size."""
    return _centre(image).resize((size, size), Image.Resampling.LANCZOS)


def bicubic(image: Image.Image, size: int) -> Image.Image:
    """That of latent diffusion for LSUN (Rombach et al. 2022): the centred square, bicubic to size."""
    return _centre(image).resize((size, size), Image.Resampling.BICUBIC)


CROPS: dict[str, Crop] = {"guided": guided, "edm": edm, "bicubic": bicubic}
"""What ``data.crop`` may name."""


def _centre(image: Image.Image) -> Image.Image:
    """The largest centred square; an odd pixel is left over on the right or at the bottom."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
