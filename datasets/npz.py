"""NPZ files: whole batches of images as arrays of NumPy."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.source import Layout, Source, only_file

_LABELS = {"images": "labels", "arr_0": "arr_1", "data": "labels"}


class NPZ(Source):
    """Images of one NPZ file, with their row as id; an array is read when first needed, and then whole.

    Three kinds are known by the name of their array: ``images`` (N, 3, H, W) in 0..255 with ``labels``, of VIPaint;
    ``arr_0`` (N, H, W, 3) uint8, of ADM; ``data`` (N, 3 H W) uint8 with ``labels``, of downsampled ImageNet
    (Chrabaszcz, Loshchilov, Hutter 2017). The labels of the last one are ILSVRC ids, from 1, and need ``classes``, the
    class index of each such id; the others are class indices.
    """

    def __init__(self, path: Path, classes: Callable[[], Sequence[int]]):
        self.path, self._classes = path, classes
        shapes = _shapes(path)
        self._key = next((key for key in _LABELS if key in shapes), "")
        if not self._key:
            raise ValueError(f"{path} holds the arrays {', '.join(shapes)}; needed: {', '.join(_LABELS)}")
        shape = shapes[self._key]
        side = round((shape[-1] / 3) ** 0.5)
        fits = {"images": len(shape) == 4 and shape[1] == 3, "arr_0": len(shape) == 4 and shape[3] == 3}
        if not fits.get(self._key, len(shape) == 2 and 3 * side**2 == shape[-1]):
            raise ValueError(f"the array '{self._key}' in {path} has the shape {shape}; give {_WANTED}")
        labels = _LABELS[self._key]
        if labels in shapes and shapes[labels] != shape[:1]:
            raise ValueError(f"the array '{labels}' in {path} has the shape {shapes[labels]} for {shape[0]} images")
        self.ids = tuple(f"{i:08d}" for i in range(shape[0]))
        self.labelled = labels in shapes

    def open(self, image: str) -> Image.Image:
        return Image.fromarray(self._pixels[int(image)])

    def stored(self, image: str) -> bytes:
        """Its pixels and their shape: the file may store them in other types and orders."""
        pixels = self._pixels[int(image)]
        return f"{pixels.shape}".encode() + pixels.tobytes()

    def file(self, image: str) -> tuple[str, str]:
        return str(self.path), image

    def where(self, image: str) -> str:
        return f"{self.path}, row {int(image)}"

    def label(self, image: str) -> int:
        label = int(self._numbers[int(image)])
        if self._key != "data":
            return label
        classes = self._classes()
        if not 1 <= label <= len(classes):
            raise ValueError(f"'{self.where(image)}' has the label {label}; ILSVRC ids run from 1 to {len(classes)}")
        return classes[label - 1]

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 3)."""
        array = self._array(self._key)
        if self._key == "data":
            side = round((array.shape[1] / 3) ** 0.5)
            array = array.reshape(-1, 3, side, side)
        if array.dtype != np.uint8:
            if not (np.isfinite(array).all() and array.min() >= 0 and 1 < array.max() <= 255):
                raise ValueError(f"the values of '{self._key}' in {self.path} must be grey levels from 0 to 255")
            array = np.rint(array).astype(np.uint8)
        return np.ascontiguousarray(array if self._key == "arr_0" else array.transpose(0, 2, 3, 1))

    @cached_property
    def _numbers(self) -> NDArray[Any]:
        return self._array(_LABELS[self._key])

    def _array(self, key: str) -> NDArray[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return np.asarray(file[key])
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"cannot read the array '{key}': {error}") from error


_WANTED = "images (N, 3, H, W), arr_0 (N, H, W, 3) or data (N, 3 H W)"


def npz(classes: Callable[[], Sequence[int]]) -> Layout:
    """An NPZ file, or a folder that holds one; ``classes`` is called where labels are ILSVRC ids."""

    def find(root: Path) -> Source | None:
        path = only_file(root, "*.npz")
        return None if path is None else NPZ(path, classes)

    return Layout(f"an NPZ file with {_WANTED}", find)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays, from their headers."""
    shapes = {}
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                with file.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name.removesuffix(".npy")] = read(member)[0]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path} as NPZ: {error}; fetch it again") from error
    return shapes
