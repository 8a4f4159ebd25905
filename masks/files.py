"""Masks of your own: a folder of PNG files, a stack of masks in one NumPy file, or one file for all images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masks.levels import colours_of, white_of
from masks.sources import Array, ReadMasks, check_pair, file_of, nearest, stack_of

WHITE = ("observed", "hole")


@dataclass(frozen=True)
class Files(ReadMasks):
    """Masks from files, whose polarity has to be said: half of the field's software writes the hole in white.

    Parameters
    ----------
    path: a folder of ``.png`` or ``.npy`` files, one file for all images, or one ``.npy`` or ``.npz`` file with a stack
    of masks, of which image number ``i`` takes number ``i`` modulo their count. white: what white means (255, or 1 or
    true in arrays): ``observed``, as in RePaint, CoPaint, DPS, RED-diff, VIPaint and our own export, or ``hole``, as in
    LaMa, Palette and the pipelines of diffusers. pair: how the files of a folder are matched with images, ``id`` by
    name, ``order`` by sorted file names. resize: true takes the nearest pixels of masks of another size; false refuses
    them. sha256: content of the masks; the plan fills it in, and refuses other masks than the one given.

    Two values, colours or opacities are told apart whatever they are (0 and 1, label numbers, red on black): the higher
    or brighter one is white. Of soft edges, white is what lies above the middle. Raises ValueError for unknown names,
    missing or unreadable files, masks of another size, masks that hide nothing or everything, and files with many
    values between the two, which are no masks.
    """

    path: str
    white: str
    pair: str = "id"
    resize: bool = False
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.white not in WHITE:
            raise ValueError(f"unknown white '{self.white}'; valid: {', '.join(WHITE)}")
        check_pair(self.pair)

    def read(self, image_id: str, index: int, height: int, width: int) -> NDArray[np.bool_]:
        file = file_of(Path(self.path).expanduser(), self.pair, image_id, index)
        colours, opacity, where = self._pixels(file, index, height, width)
        try:
            white = white_of(colours, opacity)
            if white.shape != (height, width) and not self.resize:
                raise ValueError(
                    f"it has {white.shape[0]} x {white.shape[1]} pixels and the image {height} x {width}; "
                    "set resize=true to take the nearest pixels"
                )
            white = nearest(white, height, width)
            if white.all() or not white.any():
                raise ValueError("at the size of the image it hides everything or nothing; draw it larger")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return white if self.white == "observed" else ~white

    def _pixels(self, file: Path, index: int, height: int, width: int) -> tuple[Array, Array | None, str]:
        """Colours and opacity of the mask of image number ``index``, and what to call it."""
        if file.suffix.lower() not in (".npy", ".npz"):
            return *colours_of(file), f"mask '{file}'"
        stack = stack_of(file, height, width)
        # the files of a folder hold a single mask each
        number = index % len(stack)
        return stack[number], None, f"mask '{file}'" + (f", number {number}" if len(stack) > 1 else "")
