"""Masks of your own: a folder of PNG files, a stack of masks in one NumPy file, or one file for all
images.
"""

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
    """Masks from files. What white means differs: half of the field's software writes the hole in
    white.

    A mask may be as large as the image, or as the photograph that the image was made of: then it is
    turned, cropped and resized as the photograph was, to the nearest pixels.

    Parameters
    ----------
    path : str
        A folder of ``.png``, ``.npy`` or other image files, one file for all images, or one
        ``.npy`` or ``.npz`` file with a stack of masks, of which image number ``i`` takes
        number ``i`` modulo their count.
    white : str, default 'hole'
        What white means (255, or 1 or true in arrays): ``observed``, as in RePaint, CoPaint,
        DPS, RED-diff, VIPaint and our own export, or ``hole``, as in LaMa, Palette, the
        pipelines of diffusers and what most people draw.
    pair : str, default 'id'
        How the files of a folder are matched with images, ``id`` by name, ``order`` by sorted
        file names.
    resize : bool, default False
        True takes the nearest pixels of masks that are larger or smaller than image and
        photograph but have the proportions of one; false refuses them.
    sha256 : str | None, default None
        Content of the masks; the plan fills it in, and refuses other masks than the one given.

    Notes
    -----
    Two values, colours or opacities are told apart whatever they are (0 and 1, label numbers, red
    on black): the higher or brighter one is white. Of soft edges, white is what lies above the
    middle. Raises ValueError for unknown names, missing or unreadable files, masks of another size,
    masks that hide nothing or everything of the image, and files with many values between the two,
    which are no masks.
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
            # which values are white is a matter of the whole file: a part of it may hold one value
            # and its noise
            white = self.fitted(white, image_id, height, width, self.resize)
            if white.all() or not white.any():
                raise ValueError(
                    "at the size of the image it hides everything or nothing; draw it larger, "
                    "within what is used of "
                    "the photograph (its centre)"
                )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return white if self.white == "observed" else ~white

    def _pixels(
        self, file: Path, index: int, height: int, width: int
    ) -> tuple[Array, Array | None, str]:
        """Colours and opacity of the mask of image number ``index``, and what to call it."""
        if file.suffix.lower() not in (".npy", ".npz"):
            return *colours_of(file), f"mask '{file}'"
        stack = stack_of(file, height, width)
        # the files of a folder hold a single mask each
        number = index % len(stack)
        return (
            stack[number],
            None,
            f"mask '{file}'" + (f", number {number}" if len(stack) > 1 else ""),
        )
