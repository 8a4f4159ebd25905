"""A folder of image files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.base import ImageSet

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MODES = {"rgb": "RGB", "grey": "L"}
CROPS = ("guided",)


@dataclass
class Folder(ImageSet):
    """Every image below a folder, cropped and resized to one size; ids are POSIX paths relative to the folder.

    Ids are in string order, in which ``10.png`` comes before ``2.png``. Hidden files are left out, links to folders are
    not followed. ``name`` is a hash of the ids, so noise and masks stay the same when the folder moves.

    Parameters
    ----------
    root: the folder. size: both sides of the images, in pixels. mode: ``rgb`` (3, size, size) or ``grey``
    (1, size, size; luma of ITU-R 601). crop: ``guided``, see :func:`guided`.

    Every file becomes 8-bit RGB or grey before it is resized: grey is repeated in each channel, palettes are looked up,
    transparency is laid over white, CMYK is converted without its colour profile, 16-bit grey is rounded to 8 bits, and
    of 16-bit colour the upper byte is kept. Embedded profiles and EXIF orientation are ignored, as in the code of the
    priors. Of an animation, the first frame counts.

    Raises FileNotFoundError for a missing folder; ValueError for one without images, unknown settings and ids, and,
    naming the file, an image that cannot be read.
    """

    root: str
    size: int = 64
    mode: str = "rgb"
    crop: str = "guided"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode '{self.mode}'; valid: {', '.join(MODES)}")
        if self.crop not in CROPS:
            raise ValueError(f"unknown crop '{self.crop}'; valid: {', '.join(CROPS)}")
        if self.size < 1:
            raise ValueError(f"size={self.size}: images need at least one pixel")
        self.ids = _list(Path(self.root))
        self._known = frozenset(self.ids)
        self.name = "folder:" + hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:12]
        self.shape = (len(MODES[self.mode]), self.size, self.size)

    def images(self, ids: Sequence[str]) -> Tensor:
        return torch.stack([torch.from_numpy(self._load(name)) for name in ids])

    def _load(self, name: str) -> NDArray[np.float32]:
        """One image, float32 ``(C, size, size)`` in [-1, 1]."""
        if name not in self._known:
            raise ValueError(f"there is no image '{name}' in {self.root}")
        path = Path(self.root, name)
        try:
            with Image.open(path) as file:
                pixels = np.asarray(guided(_eight_bit(file, MODES[self.mode]), self.size))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read image '{path}': {error}; repair or remove it") from error
        channels = pixels.reshape(self.size, self.size, -1).transpose(2, 0, 1)
        return channels.astype(np.float32) / np.float32(127.5) - 1


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


def _list(root: Path) -> tuple[str, ...]:
    """The relative paths of all images, sorted."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder '{root}'; set data.root to a folder of images")
    paths = (p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    ids = tuple(sorted(p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts)))
    if not ids:
        raise ValueError(f"the folder '{root}' holds no image; looked for {', '.join(EXTENSIONS)} at any depth")
    return ids


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Any image as 8-bit ``RGB`` or ``L``."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255 instead of scaling
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image.convert("RGB").convert(mode)
