"""Masks of your own: a folder of PNG files, a stack of masks in one NumPy file, or one file for all images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masks.sources import Array, ReadMasks, check_pair, file_of, nearest, pixels_of, stack_of

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

    White is what lies above the middle of the values a file may have: 0.5 where none exceeds 1, else 127.5, and
    32767.5 where one exceeds 255.

    Raises ValueError for unknown names, missing or unreadable files, and masks of another size.
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
        plane = self._plane(file, index, height, width)
        try:
            if plane.shape != (height, width) and not self.resize:
                raise ValueError(
                    f"it has {plane.shape[0]} x {plane.shape[1]} pixels and the image {height} x {width}; "
                    "set resize=true to take the nearest pixels"
                )
            bright = _bright(nearest(plane, height, width))
        except ValueError as error:
            raise ValueError(f"mask '{file}': {error}") from None
        return bright if self.white == "observed" else ~bright

    def _plane(self, file: Path, index: int, height: int, width: int) -> Array:
        if file.suffix.lower() not in (".npy", ".npz"):
            return pixels_of(file)
        stack = stack_of(file, height, width)
        # the files of a folder hold a single mask each
        return stack[index % len(stack)]


def _bright(values: Array) -> NDArray[np.bool_]:
    """True where a value lies above the middle of its range."""
    most, least = float(values.max()), float(values.min())
    if not 0 <= least <= most <= 65535:
        raise ValueError(f"its values run from {least} to {most}; give 0 to 1, 0 to 255 or 0 to 65535")
    return values > next(top for top in (1, 255, 65535) if most <= top) / 2
