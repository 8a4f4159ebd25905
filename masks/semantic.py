"""Observe or hide the pixels of some labels of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from typing_extensions import override

from posterior_bench.masks.base import Parts
from posterior_bench.masks.sources import Array, ReadMasks, check_pair, file_of, pixels_of, stack_of

# The parts of CelebAMask-HQ by their numbers in its label maps, from 1 on; 0 is background. Where
# two parts overlap, the later one counts.
PARTS = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
LABELLED = ("observed", "hole")
_NAMED = 8  # images that a message names
_PER_FOLDER = 2000  # annotations of CelebAMask-HQ lie in folders of so many images


@dataclass(frozen=True)
class Semantic(ReadMasks):
    """Keep an object and hide the rest of the image, or the reverse.

    As in LatentPaint (Corneanu et al., WACV 2024). The object is labelled in label maps of the
    user's, or it is a part that the image set itself knows (``part``).

    Parameters
    ----------
    path : str | None, default None
        A folder of label maps, ``.png`` or ``.npy`` with one whole number per pixel; one ``.npy``
        or ``.npz`` file with a stack of maps; or the folder ``CelebAMask-HQ-mask-anno`` of
        CelebAMask-HQ (Lee et al., CVPR 2020), whose parts are combined for images with ids such as
        ``12.jpg``.
    labels : Sequence[str | int], default ()
        Label numbers (in ADE20K, counted from 0, a bed is 7 and a sofa 23), or names of the 18
        parts of CelebAMask-HQ, such as ``hair``.
    labelled : str, default 'observed'
        ``observed`` keeps the object; ``hole`` hides it.
    pair : str, default 'id'
        How maps are matched with images: ``id`` = by name, ``order`` = by sorted file names.
    dilate : int, default 0
        Grow the object by this many pixels of the image in every direction.
    min_area : float, default 0.0
        An image is refused unless the object, after growing, covers more than this fraction of it.
        An image without the object is always refused.
    max_area : float, default 1.0
        An image is refused unless the object, after growing, covers less than this fraction of it.
    sha256 : str | None, default None
        Hash of the masks. The plan fills it in; a run with other masks is refused.
    part : str | None, default None
        In place of ``path`` and ``labels``: a part that the image set knows, such as ``mouth`` of
        the cartoon faces.

    Raises
    ------
    ValueError
        For an unknown name, an impossible range, a missing or unreadable file, and a refused image.

    Notes
    -----
    A map of the size of the photograph is turned, cropped and resized like the photograph. A map of
    another size with the proportions of photograph or image is resized. Both take the nearest
    pixels.
    """

    path: str | None = None
    labels: Sequence[str | int] | None = None
    labelled: str = "observed"
    pair: str = "id"
    dilate: int = 0
    min_area: float = 0.0
    max_area: float = 1.0
    sha256: str | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        if self.labelled not in LABELLED:
            raise ValueError(f"unknown labelled '{self.labelled}'; valid: {', '.join(LABELLED)}")
        check_pair(self.pair)
        if self.part is None:
            self._check_labels()
        elif self.path is not None or self.labels:
            raise ValueError(
                f"mask.part={self.part} needs no label maps; leave mask.path and mask.labels out"
            )
        if self.dilate < 0 or not 0 <= self.min_area < self.max_area <= 1:
            raise ValueError("semantic masks need dilate >= 0 and 0 <= min_area < max_area <= 1")

    def _check_labels(self) -> None:
        if self.path is None:
            raise ValueError(
                "give mask.path and mask.labels, which name label maps of your own; data=faces "
                "needs none: give mask.part=hair, eyes, mouth, glasses or face"
            )
        if isinstance(self.labels, str) or not isinstance(self.labels, Sequence) or not self.labels:
            raise ValueError(
                f"labels={self.labels}: give a list of numbers or names, for example [hair,hat]"
            )
        self._numbers()

    @override
    def content(self, ids: Sequence[str], height: int, width: int) -> str:
        if self.part is not None:
            self._demand_part(ids)
        return super().content(ids, height, width)

    @override
    def read(self, image_id: str, index: int, height: int, width: int) -> NDArray[np.bool_]:
        if self.part is None:
            region = self._labelled(image_id, index, height, width)
            name = f"labels {', '.join(map(str, self.labels or ()))} cover"
        else:
            region, name = self._with_parts().part(image_id, self.part), f"{self.part} covers"
        if self.dilate and region.any():
            region = binary_dilation(region, np.ones((2 * self.dilate + 1,) * 2, dtype=bool))
        share = float(region.mean())
        if not self.min_area < share < self.max_area:
            raise ValueError(
                f"{name} {share:.4f} of image '{image_id}', not between {self.min_area} and "
                f"{self.max_area}; leave it out, or choose another object"
            )
        return region if self.labelled == "observed" else ~region

    def _labelled(self, image_id: str, index: int, height: int, width: int) -> NDArray[np.bool_]:
        try:
            labels = self.fitted(
                self._map(image_id, index, height, width), image_id, height, width, resize=True
            )
        except ValueError as error:
            raise ValueError(f"label map of image '{image_id}': {error}") from None
        return np.isin(labels, self._numbers())

    def _with_parts(self) -> Parts:
        pictures: object = self.pictures
        if not isinstance(pictures, Parts):
            raise ValueError(
                f"mask.part={self.part}: these images have no parts that are known; choose "
                "data=faces, or give label maps by mask.path and mask.labels"
            )
        return pictures

    def _demand_part(self, ids: Sequence[str]) -> None:
        """Refuse images without the part, all in one line."""
        pictures, part = self._with_parts(), str(self.part)
        without = [image for image in ids if not pictures.part(image, part).any()]
        if without:
            shown = ", ".join(without[:_NAMED]) + (", ..." if len(without) > _NAMED else "")
            raise ValueError(
                f"{len(without)} of the {len(ids)} images show no {part}: {shown}; "
                f"data.showing={part} takes images that do"
            )

    def _numbers(self) -> list[int]:
        labels = self.labels or ()
        unknown = [name for name in labels if isinstance(name, str) and name not in PARTS]
        if unknown:
            raise ValueError(f"unknown label '{unknown[0]}'; valid: numbers, {', '.join(PARTS)}")
        return [PARTS.index(name) + 1 if isinstance(name, str) else int(name) for name in labels]

    def _map(self, image_id: str, index: int, height: int, width: int) -> Array:
        path = Path(str(self.path)).expanduser()
        parts = _parts(path, image_id)
        if parts:
            return _assembled(parts)
        file = file_of(path, self.pair, image_id, index)
        if file.suffix.lower() not in (".npy", ".npz"):
            return pixels_of(file, indexed=True)
        stack = stack_of(file, height, width)
        if stack.dtype.kind not in "iub":
            raise ValueError(f"'{file}' holds {stack.dtype} values; label maps are whole numbers")
        return stack[index % len(stack)]


def _parts(folder: Path, image_id: str) -> dict[int, Path]:
    """Return the files of CelebAMask-HQ with the parts of one image, by label number.

    Other folders have none.
    """
    number = Path(image_id).stem
    if not (number.isascii() and number.isdecimal()):
        return {}
    start = folder / str(int(number) // _PER_FOLDER) / f"{int(number):05d}"
    files = {i: start.with_name(f"{start.name}_{name}.png") for i, name in enumerate(PARTS, 1)}
    return {i: file for i, file in files.items() if file.is_file()}


def _assembled(parts: dict[int, Path]) -> Array:
    """Combine the parts of an image into a label map, uint8 ``(H, W)``."""
    planes = {i: pixels_of(file) for i, file in parts.items()}
    shapes = {plane.shape for plane in planes.values()}
    if len(shapes) > 1:
        raise ValueError(f"its parts are of different sizes, {', '.join(map(str, sorted(shapes)))}")
    labels = np.zeros(shapes.pop(), dtype=np.uint8)
    for i, plane in planes.items():
        labels[plane > 0] = i
    return labels
