"""Read masks from a folder of image files, from one stack of masks, or from one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.levels import colours_of, white_of
from posterior_bench.masks.sources import Array, ReadMasks, check_pair, file_of, stack_of

WHITE = ("observed", "hole")
_LOSSY = (".jpg", ".jpeg", ".jfif", ".webp", ".avif")


@dataclass(frozen=True)
class Files(ReadMasks):
    """Masks from files.

    Programs disagree on the meaning of white: half of the field's software writes the hole in
    white. Set ``white`` accordingly. A mask has the size of the image, or of the photograph that
    the image was made of. In the second case the mask is turned, cropped and resized like the
    photograph, to the nearest pixels.

    Parameters
    ----------
    path : str
        A folder of ``.png``, ``.npy`` or other image files, one file for all images, or one
        ``.npy`` or ``.npz`` file with a stack of ``n`` masks. Image number ``i`` takes mask
        ``i modulo n`` of a stack.
    white : str, default 'hole'
        Meaning of white (255 in images, 1 or true in arrays). ``observed``: as in RePaint, CoPaint,
        DPS, RED-diff, VIPaint and the export of this benchmark. ``hole``: as in LaMa, Palette, the
        pipelines of diffusers, and most masks drawn by hand.
    pair : str, default 'id'
        How files of a folder are matched with images: ``id`` = by name, ``order`` = by sorted file
        names.
    resize : bool, default False
        True also accepts masks of another size that have the proportions of the image or the
        photograph, and takes their nearest pixels; False refuses them.
    sha256 : str | None, default None
        Hash of the masks. The plan fills it in; a run with other masks is refused.

    Raises
    ------
    ValueError
        For an unknown name, a missing or unreadable file, a mask of another size, a mask that hides
        everything or nothing of the image, and a file with many values between black and white,
        which is no mask.

    Notes
    -----
    The two values, colours or opacities of a mask may be any (0 and 1, label numbers, red on
    black): the higher or brighter one is white. In a soft edge, pixels above the middle are white.
    """

    path: str
    white: str = "hole"
    pair: str = "id"
    resize: bool = False
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.white not in WHITE:
            raise ValueError(f"unknown white '{self.white}'; valid: {', '.join(WHITE)}")
        check_pair(self.pair)

    @override
    def read(self, image_id: str, index: int, height: int, width: int) -> NDArray[np.bool_]:
        file = file_of(Path(self.path).expanduser(), self.pair, image_id, index)
        colours, opacity, where = self._pixels(file, index, height, width)
        try:
            white = white_of(colours, opacity, lossy=file.suffix.lower() in _LOSSY)
            # the whole file decides which values are white: the part that the image shows may hold
            # a single value and its noise
            white = self.fitted(white, image_id, height, width, self.resize)
            if white.all() or not white.any():
                raise ValueError(
                    "at the size of the image it hides everything or nothing; draw it larger, "
                    "within what is used of the photograph (its centre)"
                )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return white if self.white == "observed" else ~white

    def _pixels(
        self, file: Path, index: int, height: int, width: int
    ) -> tuple[Array, Array | None, str]:
        """Return colours, opacity and name (for messages) of the mask of image number ``index``."""
        if file.suffix.lower() not in (".npy", ".npz"):
            return *colours_of(file), f"mask '{file}'"
        stack = stack_of(file, height, width)
        # the files of a folder hold a single mask each
        number = index % len(stack)
        where = f"mask '{file}'" + (f", number {number}" if len(stack) > 1 else "")
        return stack[number], None, where
